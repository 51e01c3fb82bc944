import core.stdc.stdlib : exit;
import core.thread;
import std.algorithm;
import std.file;
import std.range;
import std.stdio;

void main(string[] words) {
    auto rest = words[2 .. $];
    switch (words[1]) {
    case "echo":
        foreach (piece; stdin.byChunk(4096)) stdout.rawWrite(piece);
        break;
    case "args":
        rest.each!(arg => writeln("[", arg, "]"));
        break;
    case "exit":
        exit(3);
        break;
    case "stderr":
        writeln("to stdout");
        stderr.writeln("to stderr");
        break;
    case "unicode":
        writeln("žluťoučký 你好 🦀");
        break;
    case "output":
        foreach (n; 0 .. 10_000) writeln('x'.repeat(99));
        break;
    case "uncaught":
        throw new Exception("corpus failure");
    case "memory":
        ubyte[][] hoard;
        while (true) {
            hoard ~= new ubyte[1 << 20];
            hoard[$ - 1][] = 1;
        }
    case "loop":
        while (true) {}
    case "threads":
        auto sums = new long[4];
        void add(size_t index) {
            foreach (n; 1 .. 1001) sums[index] += n;
        }
        Thread make(size_t index) {
            return new Thread(() => add(index)).start();
        }
        auto threads = iota(4).map!(index => make(index)).array;
        threads.each!(thread => thread.join());
        writeln(sums.sum);
        break;
    case "missing":
        try {
            readText("absent.txt");
        } catch (FileException error) {
            writeln("missing");
        }
        break;
    case "workdir":
        std.file.write("out.txt", "written");
        writeln(readText("out.txt"));
        break;
    default:
        exit(1);
    }
}
