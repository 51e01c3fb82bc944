// Colours for source text: comments, strings, numbers and keywords, by one pattern a language. A language that is not
// here stays plain. The pieces are nodes and text, never HTML.

const words = (text) => `\\b(?:${text.trim().split(/\s+/).join("|")})\\b`;

const STRING = String.raw`"(?:\\[\s\S]|[^"\\\n])*"?|'(?:\\[\s\S]|[^'\\\n])*'?`;
/** The end of the whole text: `$` is the end of a line here. */
const END = String.raw`(?![\s\S])`;
const SLASHES = String.raw`\/\/[^\n]*|\/\*[\s\S]*?(?:\*\/|${END})`;
const NUMBER = String.raw`\b(?:0[xX][\da-fA-F_']+|0[bB][01_']+|\d[\d_']*(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)?)\w*`;

const C_WORDS = `auto break case char const continue default do double else enum extern float for goto if inline int long
  register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while bool true
  false nullptr NULL`;
const JS_WORDS = `async await break case catch class const continue debugger default delete do else export extends false
  finally for from function if import in instanceof let new null of return static super switch this throw true try typeof
  undefined var void while with yield`;

// A regular expression literal is one only where a value may start: after an operator, an opening bracket or `return`.
const JS = {
  comment: SLASHES,
  string: String.raw`\`(?:\\[\s\S]|[^\`\\])*\`?|${STRING}|(?<=(?:^|[=(,:;!&|?{}[\n+]|\breturn|=>)[ \t]*)\/(?![*\/])(?:\\.|\[(?:\\.|[^\]\n])*\]|[^\/\n\\[])+\/\w*`,
  number: NUMBER,
};

const LANGUAGES = {
  python: {
    comment: "#[^\\n]*",
    string: String.raw`(?:\b[rRbBfFuUtT]{1,2})?(?:"""(?:\\[\s\S]|[^\\])*?(?:"""|${END})|'''(?:\\[\s\S]|[^\\])*?(?:'''|${END})|${STRING})`,
    number: NUMBER,
    word: words(`and as assert async await break case class continue def del elif else except False finally for from
      global if import in is lambda match None nonlocal not or pass raise return True try while with yield`),
  },
  javascript: { ...JS, word: words(JS_WORDS) },
  typescript: {
    ...JS,
    word: words(`${JS_WORDS} abstract any as boolean declare enum implements interface keyof namespace never number object
      private protected public readonly satisfies string type unknown`),
  },
  c: { comment: SLASHES, string: STRING, number: NUMBER, meta: "^[ \\t]*#[ \\t]*\\w+", word: words(C_WORDS) },
  cpp: {
    comment: SLASHES,
    string: String.raw`\bR"(?<_end>[^\s()\\]{0,16})\([\s\S]*?(?:\)\k<_end>"|${END})|${STRING}`,
    number: NUMBER,
    meta: "^[ \\t]*#[ \\t]*\\w+",
    word: words(`${C_WORDS} catch class co_await co_return co_yield concept consteval constexpr decltype delete explicit
      final friend mutable namespace new noexcept operator override private protected public requires static_cast template
      this throw try typename using virtual`),
  },
  bash: {
    // `$#` and `${#…}` are no comments, and an escaped quote is no string.
    plain: String.raw`\\[\s\S]|\$[#?*@!$\-\d]|\$\{#`,
    comment: String.raw`(?<![^\s;&|()])#[^\n]*`,
    string: String.raw`<<-?[ \t]*["']?(?<_end>\w+)[^\n]*\n(?:[\s\S]*?\n)??[ \t]*\k<_end>(?=\n|${END})|\$?'[^']*'?|"(?:\\[\s\S]|[^"\\])*"?`,
    number: String.raw`(?<![\w.\/-])\d+(?![\w.\/-])`,
    word: words(`break case continue declare do done elif else esac eval exec exit export fi for function if in local read
      readonly return select set shift source then trap unset until while`),
  },
};

/** One expression a language, made when it is first needed: each kind is a named group, tried in the order above. */
const compiled = {};
function expression(language) {
  const kinds = Object.entries(LANGUAGES[language]);
  return new RegExp(kinds.map(([kind, source]) => `(?<${kind}>${source})`).join("|"), "gm");
}

/** The text as strings and coloured spans. */
export function paint(text, language) {
  if (!Object.hasOwn(LANGUAGES, language)) return [text];
  compiled[language] ??= expression(language);
  const pieces = [];
  let at = 0;
  for (const match of text.matchAll(compiled[language])) {
    const kind = Object.keys(match.groups).find((name) => name[0] !== "_" && match.groups[name] !== undefined);
    if (match[0] === "" || kind === "plain") continue;
    if (match.index > at) pieces.push(text.slice(at, match.index));
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = match[0];
    pieces.push(span);
    at = match.index + match[0].length;
  }
  pieces.push(text.slice(at));
  return pieces;
}
