import fs from "node:fs";

enum Exit {
  Asked = 3,
}

type Case = () => void | Promise<void>;

if (!Bun.isMainThread) {
  let sum: number = 0;
  for (let n = 1; n <= 1000; n++) sum += n;
  postMessage(sum);
} else {
  const [name, ...rest]: string[] = Bun.argv.slice(2);
  const cases: Record<string, Case> = {
    echo: async () => { await Bun.write(Bun.stdout, await Bun.stdin.text()); },
    args: () => rest.forEach((arg: string) => console.log(`[${arg}]`)),
    exit: () => process.exit(Exit.Asked),
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
      const hoard: Buffer[] = [];
      for (;;) hoard.push(Buffer.alloc(1 << 20, 1));
    },
    loop: () => {
      for (;;);
    },
    threads: () => {
      let total = 0, left = 4;
      for (let n = 0; n < 4; n++) {
        const worker = new Worker(import.meta.url);
        worker.onmessage = (event: MessageEvent) => {
          total += event.data;
          worker.terminate();
          if (--left === 0) console.log(total);
        };
      }
    },
    missing: () => {
      try {
        fs.readFileSync("absent.txt");
      } catch (error: any) {
        console.log(error.code === "ENOENT" ? "missing" : error);
      }
    },
    workdir: () => {
      fs.writeFileSync("out.txt", "written");
      console.log(fs.readFileSync("out.txt", "utf8"));
    },
  };
  cases[name]();
}
