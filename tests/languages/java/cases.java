import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.concurrent.Executors;
import java.util.stream.IntStream;

public class cases {
    public static void main(String[] words) throws Exception {
        String[] rest = Arrays.copyOfRange(words, 1, words.length);
        switch (words[0]) {
            case "echo" -> System.in.transferTo(System.out);
            case "args" -> Arrays.stream(rest).forEach(arg -> System.out.println("[" + arg + "]"));
            case "exit" -> System.exit(3);
            case "stderr" -> {
                System.out.println("to stdout");
                System.err.println("to stderr");
            }
            case "unicode" -> System.out.println("žluťoučký 你好 🦀");
            case "output" -> IntStream.range(0, 10_000).forEach(n -> System.out.println("x".repeat(99)));
            case "uncaught" -> throw new IllegalStateException("corpus failure");
            case "memory" -> {
                for (var hoard = new ArrayList<byte[]>();;) hoard.add(new byte[1 << 20]);
            }
            case "loop" -> {
                while (true) Thread.onSpinWait();
            }
            case "threads" -> {
                try (var threads = Executors.newFixedThreadPool(4)) {
                    long total = 0;
                    var sums = IntStream.range(0, 4).mapToObj(n -> threads.submit(() -> IntStream.rangeClosed(1, 1000).sum())).toList();
                    for (var sum : sums) total += sum.get();
                    System.out.println(total);
                }
            }
            case "missing" -> {
                try {
                    Files.readString(Path.of("absent.txt"));
                } catch (NoSuchFileException error) {
                    System.out.println("missing");
                }
            }
            case "workdir" -> {
                Files.writeString(Path.of("out.txt"), "written");
                System.out.println(Files.readString(Path.of("out.txt")));
            }
        }
    }
}
