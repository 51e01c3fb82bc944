public class broken {
    int broken = "text";
}
