// The editor: a plain textarea, so that undo, input methods, selection and screen readers are the browser's own, with
// line numbers beside it and colours painted under it.
import { paint } from "./highlight.js";

/** Beyond this many characters colours are left out, so that typing stays quick. */
const COLOURS_MAX = 40_000;

export class Editor {
  #root;
  #area;
  #gutter;
  #paint;
  #language = "";
  #unit = "    ";
  #lines = 1;
  /** Set by Escape: the next Tab moves the focus as it does everywhere else. */
  #leaving = false;

  constructor(root, onInput) {
    this.#root = root;
    this.#area = root.querySelector("textarea");
    this.#gutter = root.querySelector(".gutter");
    this.#paint = root.querySelector(".paint");
    this.#area.addEventListener("input", () => {
      this.#show();
      onInput();
    });
    this.#area.addEventListener("keydown", (event) => this.#key(event));
    this.#area.addEventListener("blur", () => (this.#leaving = false));
    // Everything below the text belongs to the editor too.
    root.addEventListener("mousedown", (event) => {
      if (event.target !== root) return;
      event.preventDefault();
      this.#area.focus();
    });
  }

  get value() {
    return this.#area.value;
  }
  set value(text) {
    this.#area.value = text;
    this.#show();
    this.#area.setSelectionRange(0, 0);
    this.#root.scrollTo(0, 0);
  }
  set language(id) {
    this.#language = id;
    this.#unit = { go: "\t", javascript: "  ", typescript: "  ", ruby: "  ", dart: "  ", scala: "  " }[id] ?? "    ";
    this.#show();
  }
  focus() {
    this.#area.focus();
  }

  #show() {
    const text = this.#area.value;
    const lines = text.split("\n").length;
    if (lines !== this.#lines) {
      this.#lines = lines;
      this.#gutter.textContent = Array.from({ length: lines }, (_, index) => index + 1).join("\n");
    }
    // The painted text gives the sheet its size; a last empty line needs something on it to have a height.
    const pieces = text.length > COLOURS_MAX ? [text] : paint(text, this.#language);
    this.#paint.replaceChildren(...pieces, "\n");
  }

  /** As if typed, so that undo knows it. */
  #type(text) {
    if (!document.execCommand("insertText", false, text)) {
      const { selectionStart, selectionEnd } = this.#area;
      this.#area.setRangeText(text, selectionStart, selectionEnd, "end");
      this.#area.dispatchEvent(new Event("input", { bubbles: true }));
    }
  }

  #key(event) {
    if (event.isComposing) return;
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (event.key === "Escape") {
      this.#leaving = true;
      return;
    }
    const leaving = this.#leaving;
    if (event.key !== "Shift") this.#leaving = false;
    if (event.key === "Tab" && plain && !leaving) {
      event.preventDefault();
      this.#indent(event.shiftKey);
    } else if (event.key === "Enter" && plain && !event.shiftKey) {
      event.preventDefault();
      this.#newLine();
    } else if (event.key === "}" && plain) {
      this.#closeBlock();
    }
  }

  /** The line up to the caret. */
  #before() {
    const { value, selectionStart } = this.#area;
    return value.slice(value.lastIndexOf("\n", selectionStart - 1) + 1, selectionStart);
  }

  #newLine() {
    const before = this.#before();
    const indent = before.match(/^[ \t]*/)[0];
    const opens = ["python", "nim"].includes(this.#language) ? /[:([{]\s*$/ : /[([{]\s*$/;
    this.#type(`\n${indent}${opens.test(before) ? this.#unit : ""}`);
  }

  /** A closing brace on an empty line goes one step back before it is typed. */
  #closeBlock() {
    const { selectionStart, selectionEnd } = this.#area;
    const before = this.#before();
    if (selectionStart !== selectionEnd || before === "" || before.trim() !== "") return;
    const step = before.endsWith("\t") ? 1 : Math.min(this.#unit.length, before.length);
    this.#area.setSelectionRange(selectionStart - step, selectionEnd);
    document.execCommand("delete");
  }

  #indent(back) {
    const { value, selectionStart, selectionEnd } = this.#area;
    if (!back && !value.slice(selectionStart, selectionEnd).includes("\n")) {
      const column = this.#before().length;
      const width = this.#unit === "\t" ? 1 : this.#unit.length - (column % this.#unit.length);
      this.#type(this.#unit.slice(0, width));
      return;
    }
    const start = value.lastIndexOf("\n", selectionStart - 1) + 1;
    // A selection that ends at the start of a line doesn't mean that line.
    const last = selectionEnd > selectionStart && value[selectionEnd - 1] === "\n" ? selectionEnd - 1 : selectionEnd;
    const found = value.indexOf("\n", last);
    const end = found === -1 ? value.length : found;
    const old = value.slice(start, end);
    const less = new RegExp(`^(\t| {1,${this.#unit.length}})`);
    const lines = old.split("\n").map((line) => (back ? line.replace(less, "") : line && this.#unit + line));
    const text = lines.join("\n");
    if (text === old) return;
    const first = lines[0].length - old.split("\n")[0].length;
    this.#area.setSelectionRange(start, end);
    this.#type(text);
    const caret = Math.max(start, selectionStart + first);
    this.#area.setSelectionRange(caret, Math.max(caret, selectionEnd + text.length - old.length));
  }
}
