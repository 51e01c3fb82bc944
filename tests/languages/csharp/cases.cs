using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading.Tasks;

static class Cases {
    static int Main(string[] words) {
        var rest = words.Skip(1);
        switch (words[0]) {
        case "echo": Console.OpenStandardInput().CopyTo(Console.OpenStandardOutput()); break;
        case "args": foreach (var arg in rest) Console.WriteLine($"[{arg}]"); break;
        case "exit": return 3;
        case "stderr":
            Console.WriteLine("to stdout");
            Console.Error.WriteLine("to stderr");
            break;
        case "unicode": Console.WriteLine("žluťoučký 你好 🦀"); break;
        case "output":
            for (int n = 0; n < 10000; n++) Console.WriteLine(new string('x', 99));
            break;
        case "uncaught": throw new InvalidOperationException("corpus failure");
        case "memory":
            for (var hoard = new List<byte[]>();;) hoard.Add(Enumerable.Repeat((byte)1, 1 << 20).ToArray());
        case "loop": for (;;);
        case "threads":
            var sums = Enumerable.Range(0, 4).Select(_ => Task.Run(() => Enumerable.Range(1, 1000).Sum())).ToArray();
            Console.WriteLine(Task.WhenAll(sums).Result.Sum());
            break;
        case "missing":
            try {
                File.ReadAllText("absent.txt");
            } catch (FileNotFoundException) {
                Console.WriteLine("missing");
            }
            break;
        case "workdir":
            File.WriteAllText("out.txt", "written");
            Console.WriteLine(File.ReadAllText("out.txt"));
            break;
        }
        return 0;
    }
}
