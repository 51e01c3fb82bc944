static class Helper {
    public static string Greeting() => "from helper";
}
