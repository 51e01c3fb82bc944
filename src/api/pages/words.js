// Arguments in one field.

/** Words as a shell would cut them, without expanding anything. */
export function splitWords(text) {
  const words = [];
  for (const match of text.matchAll(/(?:\\[\s\S]|"(?:\\[\s\S]|[^"\\])*"?|'[^']*'?|[^\s"'\\])+/g)) {
    const plain = match[0].replace(/\\([\s\S])|"((?:\\[\s\S]|[^"\\])*)"?|'([^']*)'?/g, (_, escaped, double, single) =>
      escaped ?? single ?? double.replace(/\\(["\\$`])/g, "$1"),
    );
    words.push(plain);
  }
  return words;
}
