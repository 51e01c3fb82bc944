// A link that holds the program: JSON, compressed, in the fragment of the address, which browsers keep to themselves.

/** Characters of a program that came by a link: a small link can be a bomb. */
const TEXT_MAX = 2_000_000;

const base64url = {
  encode(bytes) {
    let text = "";
    for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
    return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  },
  decode(text) {
    return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (character) => character.charCodeAt(0));
  },
};

async function through(bytes, transform, most) {
  const reader = new Blob([bytes]).stream().pipeThrough(transform).getReader();
  const pieces = [];
  for (let total = 0; ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    total += value.length;
    if (total > most) {
      reader.cancel();
      throw new Error("too large");
    }
    pieces.push(value);
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/** `{language, code, stdin, args, …}` as a fragment; empty values are left out. */
export async function encode(program) {
  const text = JSON.stringify(Object.fromEntries(Object.entries(program).filter(([, value]) => value)));
  const bytes = new TextEncoder().encode(text);
  if (typeof CompressionStream === "undefined") return `#plain=${base64url.encode(bytes)}`;
  return `#program=${base64url.encode(await through(bytes, new CompressionStream("deflate-raw"), Infinity))}`;
}

/** The program of a fragment; `null` when there is none, an error when it is damaged. */
export async function decode(fragment) {
  const found = fragment.match(/^#(plain|program)=([\w-]+)$/);
  if (!found) {
    if (/^#(plain|program)=/.test(fragment)) throw new Error("damaged");
    return null;
  }
  let bytes = base64url.decode(found[2]);
  if (found[1] === "program") bytes = await through(bytes, new DecompressionStream("deflate-raw"), TEXT_MAX);
  const program = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  if (typeof program?.language !== "string" || typeof program.code !== "string") throw new Error("damaged");
  return program;
}
