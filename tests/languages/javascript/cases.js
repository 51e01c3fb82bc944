const fs = require("node:fs");
const { Worker, isMainThread, parentPort } = require("node:worker_threads");

if (!isMainThread) {
  let sum = 0;
  for (let n = 1; n <= 1000; n++) sum += n;
  parentPort.postMessage(sum);
} else {
  const [name, ...rest] = process.argv.slice(2);
  const cases = {
    echo: () => process.stdout.write(fs.readFileSync(0)),
    args: () => rest.forEach((arg) => console.log(`[${arg}]`)),
    exit: () => process.exit(3),
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
      const hoard = [];
      for (;;) hoard.push(Buffer.alloc(1 << 20, 1));
    },
    loop: () => {
      for (;;);
    },
    threads: () => {
      let total = 0, left = 4;
      for (let n = 0; n < 4; n++) {
        new Worker(__filename).on("message", (sum) => {
          total += sum;
          if (--left === 0) console.log(total);
        });
      }
    },
    missing: () => {
      try {
        fs.readFileSync("absent.txt");
      } catch (error) {
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
