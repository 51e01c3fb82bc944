final class Helper {
    static String greeting() {
        return "from helper";
    }
}
