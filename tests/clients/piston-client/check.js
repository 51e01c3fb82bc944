// npm's piston-client against a service: node check.js BASE. It sits beside its node_modules when it runs.
//
// The client is used as its README shows; what it returns is compared with what Piston's answer to the same job is.

import assert from "node:assert/strict";
import piston from "piston-client";

const client = piston({ server: process.argv[2] });

const runtimes = await client.runtimes();
assert(runtimes.some((runtime) => runtime.language === "python"), JSON.stringify(runtimes));

const reversed = await client.execute("python", "import sys\nprint(input()[::-1], sys.argv[1:])", { stdin: "!dlrow", args: ["a b"] });
assert.equal(reversed.run?.stdout, "world! ['a b']\n", JSON.stringify(reversed));
assert.equal(reversed.run.code, 0);
assert.equal(reversed.compile, undefined);

const failed = await client.execute({ language: "python", files: [{ name: "a.py", content: "import sys\nprint('no', file=sys.stderr)\nsys.exit(3)" }] });
assert.equal(failed.run?.code, 3, JSON.stringify(failed));
assert.equal(failed.run.stderr, "no\n");

const broken = await client.execute("c", "int main(void) { return nothing; }");
assert.equal(broken.compile?.code, 1, JSON.stringify(broken));
assert.match(broken.compile.stderr, /nothing/);
assert.equal(broken.run.code, 1);

const unknown = await client.execute("no-such-language", "x", { version: "1.0.0" });
assert.equal(unknown.message, "no-such-language-1.0.0 runtime is unknown");

console.log("ok: piston-client");
