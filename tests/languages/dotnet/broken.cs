class Broken {
    static int Main() => "text";
}
