
enum Exit {
  Asked = 3,
}

type Case = () => void | Promise<void>;

if (self.name === "adder") {
  let sum: number = 0;
  for (let n = 1; n <= 1000; n++) sum += n;
  (self as any).postMessage(sum);
} else {
  const [name, ...rest]: string[] = Deno.args;
  const cases: Record<string, Case> = {
    echo: async () => console.log((await new Response(Deno.stdin.readable).text()).trimEnd()),
    args: () => rest.forEach((arg: string) => console.log(`[${arg}]`)),
    exit: () => Deno.exit(Exit.Asked),
    stderr: () => {
      console.log("to stdout");
      console.error("to stderr");
    },
    unicode: () => console.log("žluťoučký 你好 🦀"),
    output: () => {
      for (let n = 0; n < 10_000; n++) console.log("x".repeat(99));
    },
    uncaught: () => {
      throw new Error("corpus failure");
    },
    memory: () => {
      const hoard: Uint8Array[] = [];
      for (;;) hoard.push(new Uint8Array(1 << 20).fill(1));
    },
    loop: () => {
      for (;;);
    },
    threads: () => {
      let total = 0, left = 4;
      for (let n = 0; n < 4; n++) {
        const worker = new Worker(import.meta.url, { type: "module", name: "adder" });
        worker.onmessage = (event: MessageEvent) => {
          total += event.data;
          worker.terminate();
          if (--left === 0) console.log(total);
        };
      }
    },
    missing: () => {
      try {
        Deno.readTextFileSync("absent.txt");
      } catch (error) {
        console.log(error instanceof Deno.errors.NotFound ? "missing" : error);
      }
    },
    workdir: () => {
      Deno.writeTextFileSync("out.txt", "written");
      console.log(Deno.readTextFileSync("out.txt"));
    },
  };
  cases[name]();
}
