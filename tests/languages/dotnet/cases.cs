using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading.Tasks;

static class Cases {
    static async Task<int> Main(string[] words) => words[0] switch {
        "exit" => 3,
        "uncaught" => throw new InvalidOperationException("corpus failure"),
        "threads" => Say(await Sum(4)),
        "args" => Say(words[1..].Select(word => $"[{word}]").ToArray()),
        "unicode" => Say("žluťoučký 你好 🦀"),
        "output" => Say(Enumerable.Repeat(new string('x', 99), 10000).ToArray()),
        "missing" => Say(Read("absent.txt")),
        _ => Other(words[0]),
    };

    static int Say(params object[] lines) {
        foreach (var line in lines) Console.WriteLine(line);
        return 0;
    }

    static async Task<int> Sum(int tasks) {
        var sums = Enumerable.Range(0, tasks).Select(_ => Task.Run(() => Enumerable.Range(1, 1000).Sum()));
        return (await Task.WhenAll(sums)).Sum();
    }

    static string Read(string name) {
        try {
            return File.ReadAllText(name);
        } catch (FileNotFoundException) {
            return "missing";
        }
    }

    static int Other(string name) {
        switch (name) {
        case "echo":
            using (var input = Console.OpenStandardInput()) input.CopyTo(Console.OpenStandardOutput());
            return 0;
        case "stderr":
            Console.Error.WriteLine("to stderr");
            return Say("to stdout");
        case "memory":
            for (var hoard = new List<byte[]>();;) hoard.Add(Enumerable.Repeat((byte)1, 1 << 20).ToArray());
        case "loop": for (;;);
        default:
            File.WriteAllText("out.txt", "written");
            return Say(Read("out.txt"));
        }
    }
}
