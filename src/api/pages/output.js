// The output pane. Whatever comes is text: escape sequences set a few colours or are shown, and never reach the page as
// anything else. A flood is taken in animation frames, and only its end is shown; the whole can be downloaded.

/** Characters shown at most; what is older leaves the page. */
const SHOWN_MAX = 200_000;
/** Pieces of text (each a node) shown at most. */
const PIECES_MAX = 4_000;
/** Pieces made in one frame at most. */
const FRAME_PIECES = 600;
/** A block ends at the first line end beyond this: short blocks keep the layout of each frame cheap. */
const BLOCK_CHARACTERS = 4_096;
const PIECE_CHARACTERS = 8_192;
/** Bytes kept for the download at most, far beyond any limit of output a service would set. */
const WHOLE_MAX = 256 * 1024 * 1024;

/** SGR sequences, and what no reader should meet raw: control characters and the marks that turn text around. */
const SPECIAL = /\x1b\[([\d;:]*)m|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
/** A sequence (or a line end) that the next piece may complete. */
const UNFINISHED = /(?:\x1b(?:\[[\d;:]{0,32})?|\r)$/;
const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

/** Turns one stream's text into pieces `[class names, text]`; its state lasts from piece to piece. */
class Terminal {
  #rest = "";
  #style = { colour: "", bold: false, dim: false, italic: false, underline: false };

  *pieces(data, last = false) {
    let text = this.#rest + data;
    const unfinished = last ? null : text.match(UNFINISHED);
    this.#rest = unfinished?.[0] ?? "";
    text = text.slice(0, text.length - this.#rest.length).replace(/\r\n?/g, "\n");
    let at = 0;
    for (const match of text.matchAll(SPECIAL)) {
      if (match.index > at) yield [this.#classes(), text.slice(at, match.index)];
      at = match.index + match[0].length;
      if (match[1] === undefined) yield ["control", visible(match[0])];
      else this.#select(match[1]);
    }
    if (at < text.length) yield [this.#classes(), text.slice(at)];
  }

  #classes() {
    const { colour, ...flags } = this.#style;
    return [colour && `ansi-${colour}`, ...Object.keys(flags).filter((name) => flags[name])].filter(Boolean).join(" ");
  }

  #select(parameters) {
    const codes = parameters.split(";");
    while (codes.length > 0) {
      const code = Number.parseInt(codes.shift() || "0", 10);
      const style = this.#style;
      if (code === 0) Object.assign(style, { colour: "", bold: false, dim: false, italic: false, underline: false });
      else if (code === 1) style.bold = true;
      else if (code === 2) style.dim = true;
      else if (code === 3) style.italic = true;
      else if (code === 4) style.underline = true;
      else if (code === 22) style.bold = style.dim = false;
      else if (code === 23) style.italic = false;
      else if (code === 24) style.underline = false;
      else if (code >= 30 && code <= 37) style.colour = COLOURS[code - 30];
      else if (code >= 90 && code <= 97) style.colour = COLOURS[code - 90];
      else if (code === 39) style.colour = "";
      else if (code === 38 || code === 48) codes.splice(0, codes[0] === "5" ? 2 : 4);
    }
  }
}

/** As a terminal's users know them, `^[` for escape, and in letters that every font has. */
function visible(character) {
  const code = character.codePointAt(0);
  if (code < 0x20) return `^${String.fromCodePoint(0x40 + code)}`;
  return code === 0x7f ? "^?" : `<U+${code.toString(16).toUpperCase().padStart(4, "0")}>`;
}

/** Bytes that are not UTF-8 come as base64, and a character may be cut in two by the pieces. */
class Decoder {
  #decoder = new TextDecoder();
  #open = false;

  text(bytes) {
    this.#open = true;
    return this.#decoder.decode(bytes, { stream: true });
  }
  /** What an unfinished character leaves, before text that is whole. */
  rest() {
    const rest = this.#open ? this.#decoder.decode() : "";
    this.#open = false;
    return rest;
  }
}

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

export class Output {
  #pane;
  #text;
  #cut;
  #queue = [];
  #queued = 0;
  #frame = 0;
  /** What is on the page, oldest first: `{node, length}`. */
  #shown = [];
  #shownCharacters = 0;
  #missing = 0;
  #block = null;
  #blockCharacters = 0;
  #terminals = {};
  #decoders = {};
  /** What came, for the download: `{stream, data}` with strings and bytes. */
  #whole = [];
  #wholeSize = 0;

  constructor(pane) {
    this.#pane = pane;
    this.#text = pane.querySelector("#text");
    this.#cut = pane.querySelector("#cut");
  }

  get empty() {
    return this.#whole.length === 0;
  }

  clear() {
    cancelAnimationFrame(this.#frame);
    this.#queue = [];
    this.#queued = this.#frame = this.#shownCharacters = this.#missing = this.#blockCharacters = this.#wholeSize = 0;
    this.#shown = [];
    this.#block = null;
    this.#terminals = {};
    this.#decoders = {};
    this.#whole = [];
    this.#text.replaceChildren();
    this.#cut.hidden = true;
  }

  /** Data of a stream as the service sends it. */
  write(stream, data, encoding) {
    const decoder = (this.#decoders[stream] ??= new Decoder());
    if (encoding === "base64") {
      const bytes = bytesOf(data);
      this.#keep(stream, bytes, bytes.length);
      this.#enqueue(stream, decoder.text(bytes));
    } else {
      this.#keep(stream, data, data.length);
      this.#enqueue(stream, decoder.rest() + data);
    }
  }

  /** What the person at the page typed, and remarks of the page itself: shown, not downloaded. */
  remark(kind, text) {
    this.#enqueue(kind, text);
  }

  /** Shows what is still held back; nothing more comes. */
  end() {
    for (const [stream, decoder] of Object.entries(this.#decoders)) this.#enqueue(stream, decoder.rest());
    for (const stream of Object.keys(this.#terminals)) this.#enqueue(stream, "", true);
  }

  /** All that came of `stream`, or of both, as it came. */
  blob(stream) {
    const wanted = this.#whole.filter((piece) => stream === "both" || piece.stream === stream);
    return new Blob(wanted.map((piece) => piece.data), { type: "application/octet-stream" });
  }

  #keep(stream, data, size) {
    if (this.#wholeSize + size > WHOLE_MAX) return;
    this.#wholeSize += size;
    this.#whole.push({ stream, data });
  }

  #enqueue(stream, text, last = false) {
    if (text === "" && !last) return;
    const previous = this.#queue.at(-1);
    if (previous?.stream === stream && !previous.last && previous.text.length < PIECE_CHARACTERS) {
      previous.text += text;
      previous.last = last;
    } else {
      this.#queue.push({ stream, text, last });
    }
    this.#queued += text.length;
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  #show() {
    this.#frame = 0;
    const following = this.#pane.scrollHeight - this.#pane.scrollTop - this.#pane.clientHeight < 32;
    // What would leave the page in the same frame need not be put on it.
    let taken = 0;
    while (this.#queue.length - taken > 1 && (this.#queued > SHOWN_MAX || this.#queue.length - taken > PIECES_MAX)) {
      const { text } = this.#queue[taken++];
      this.#queued -= text.length;
      this.#missing += text.length;
    }
    let made = 0;
    while (taken < this.#queue.length && made < FRAME_PIECES) {
      const { stream, text, last } = this.#queue[taken++];
      this.#queued -= text.length;
      const terminal = (this.#terminals[stream] ??= new Terminal());
      for (const [classes, piece] of terminal.pieces(text, last)) {
        for (let at = 0; at < piece.length; at += PIECE_CHARACTERS, made++) {
          this.#append(`${stream} ${classes}`.trim(), piece.slice(at, at + PIECE_CHARACTERS));
        }
      }
    }
    this.#queue.splice(0, taken);
    this.#trim();
    if (following) this.#pane.scrollTop = this.#pane.scrollHeight;
    if (this.#queue.length > 0) this.#frame = requestAnimationFrame(() => this.#show());
  }

  #append(className, text) {
    let rest = text;
    while (rest !== "") {
      if (this.#block === null) {
        this.#block = document.createElement("div");
        this.#blockCharacters = 0;
        this.#text.append(this.#block);
      }
      const over = this.#blockCharacters + rest.length > BLOCK_CHARACTERS;
      const lineEnd = over ? rest.indexOf("\n", Math.max(0, BLOCK_CHARACTERS - this.#blockCharacters)) : -1;
      const part = lineEnd === -1 ? rest : rest.slice(0, lineEnd + 1);
      const node = document.createElement("span");
      node.className = className;
      node.textContent = part;
      this.#block.append(node);
      this.#blockCharacters += part.length;
      this.#shown.push({ node, length: part.length });
      this.#shownCharacters += part.length;
      rest = rest.slice(part.length);
      if (lineEnd !== -1) this.#block = null;
    }
  }

  #trim() {
    let gone = 0;
    while (this.#shownCharacters > SHOWN_MAX || this.#shown.length - gone > PIECES_MAX) {
      const { node, length } = this.#shown[gone++];
      const block = node.parentNode;
      node.remove();
      if (block.childNodes.length === 0 && block !== this.#block) block.remove();
      this.#shownCharacters -= length;
      this.#missing += length;
    }
    this.#shown.splice(0, gone);
    this.#cut.hidden = this.#missing === 0;
    if (this.#missing > 0) {
      this.#cut.textContent = `${this.#missing.toLocaleString()} characters before this are not shown. Download has all.`;
    }
  }
}
