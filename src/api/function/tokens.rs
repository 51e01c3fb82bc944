//! Whether code is the body of a function: it has a `return` that belongs to no function within it.
//!
//! A reader of tokens, not a parser: it skips strings, templates, regular expressions and comments, and tells blocks of
//! statements from all other braces (bodies of functions and classes, object literals, types) by the token before them.
//! Only within blocks can a `return` be the outermost function's. Where it cannot be sure a brace counts as no block, so that
//! these are overlooked: a `return` in a bare block after an expression without `;` or after the body of a function or
//! class, in a labelled block, and after a regular expression that directly follows such a brace. JSX is not known.

/// Nested brackets; code with more is not read to its end.
const DEPTH_MAX: usize = 10_000;

/// What an open bracket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    /// Statements of the same function.
    Block,
    /// Anything else: nothing in it is a statement of the same function.
    Other,
    /// `(` after `if`, `for`, `while`, `switch`, `with` or `catch`.
    Condition,
    /// `${` of a template.
    Substitution,
}

/// What came before, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before<'a> {
    /// The start of a statement: the beginning, `;`, `{` and `}` of a block.
    Start,
    /// After the `)` of a condition.
    Condition,
    /// After the `:` of `case` or `default`.
    Case,
    Word(&'a str),
    /// `.` or `?.`: what follows is a name, whatever it looks like.
    Dot,
    /// Something that a value ends with: `)`, `]`, `}`, a number, a string.
    Value,
    Operator,
}

/// Whether `code`, JavaScript or TypeScript, has a `return` at its top level.
pub fn has_top_level_return(code: &str) -> bool {
    Reader { code, at: 0, open: Vec::new(), expressions: 0, before: Before::Start, in_case: false }.run()
}

struct Reader<'a> {
    code: &'a str,
    at: usize,
    open: Vec<Open>,
    /// Those of `open` that are no blocks.
    expressions: usize,
    before: Before<'a>,
    /// Between `case` or `default` and its colon.
    in_case: bool,
}

impl<'a> Reader<'a> {
    fn run(mut self) -> bool {
        if self.code.starts_with("#!") {
            self.skip_line();
        }
        while let Some(next) = self.rest().chars().next() {
            match next {
                _ if next.is_whitespace() => self.at += next.len_utf8(),
                '/' if self.rest().starts_with("//") => self.skip_line(),
                '/' if self.rest().starts_with("/*") => {
                    self.at = self.rest().find("*/").map_or(self.code.len(), |length| self.at + length + 2);
                }
                '/' if self.regex_may_follow() => self.skip_regex(),
                '\'' | '"' => self.skip_string(next),
                '`' => {
                    self.at += 1;
                    self.skip_template();
                }
                '(' | '[' | '{' => {
                    if self.open.len() == DEPTH_MAX {
                        return false;
                    }
                    self.at += 1;
                    self.open_bracket(next);
                }
                ')' | ']' | '}' => {
                    self.at += 1;
                    self.close_bracket();
                }
                _ if next.is_alphanumeric() || next == '_' || next == '$' => {
                    let word = self.word();
                    if word == "return" && self.before != Before::Dot && self.expressions == 0 {
                        return true;
                    }
                    match (self.before, word) {
                        (Before::Dot, _) | (Before::Word("export"), "default") => {}
                        (_, "case" | "default") => self.in_case = true,
                        _ => {}
                    }
                    let is_number = next.is_numeric();
                    self.before =
                        if is_number || self.before == Before::Dot { Before::Value } else { Before::Word(word) };
                }
                _ => self.punctuation(next),
            }
        }
        false
    }

    fn rest(&self) -> &'a str {
        &self.code[self.at..]
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '\u{200c}' | '\u{200d}');
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn punctuation(&mut self, next: char) {
        self.before = match next {
            ';' => Before::Start,
            ':' if self.in_case => {
                self.in_case = false;
                Before::Case
            }
            '.' => Before::Dot,
            // `x++ / 2` divides; nothing else that ends so is followed by a slash.
            '+' | '-' if self.rest().starts_with("++") || self.rest().starts_with("--") => {
                self.at += 1;
                self.before
            }
            _ => Before::Operator,
        };
        self.at += next.len_utf8();
        // Of `...` nothing is left that would make a name of the next word.
        if self.before == Before::Dot && self.code[..self.at].ends_with("...") {
            self.before = Before::Operator;
        }
    }

    fn open_bracket(&mut self, bracket: char) {
        let open = match (bracket, self.before) {
            ('(', Before::Word("if" | "for" | "while" | "switch" | "with" | "catch")) => Open::Condition,
            // `for await (…)`; a call of something named so would be `await (…)` of an expression all the same.
            ('(', Before::Word("await")) if self.is_for_await() => Open::Condition,
            ('{', Before::Start | Before::Condition | Before::Case) => Open::Block,
            ('{', Before::Word("else" | "do" | "try" | "finally" | "catch")) => Open::Block,
            _ => Open::Other,
        };
        self.push(open);
        self.before = if open == Open::Block { Before::Start } else { Before::Operator };
    }

    fn push(&mut self, open: Open) {
        self.expressions += usize::from(open != Open::Block);
        self.open.push(open);
    }

    fn is_for_await(&self) -> bool {
        let before = self.code[..self.at].trim_end_matches('(').trim_end();
        before.strip_suffix("await").is_some_and(|before| before.trim_end().ends_with("for"))
    }

    fn close_bracket(&mut self) {
        let closed = self.open.pop();
        self.expressions -= usize::from(closed.is_some_and(|closed| closed != Open::Block));
        match closed {
            Some(Open::Block) => self.before = Before::Start,
            Some(Open::Condition) => self.before = Before::Condition,
            Some(Open::Substitution) => self.skip_template(),
            Some(Open::Other) | None => self.before = Before::Value,
        }
    }

    /// Whether a slash here begins a regular expression; else it divides.
    fn regex_may_follow(&self) -> bool {
        match self.before {
            Before::Start | Before::Condition | Before::Case | Before::Operator => true,
            Before::Value | Before::Dot => false,
            Before::Word(word) => matches!(
                word,
                "return"
                    | "typeof"
                    | "instanceof"
                    | "in"
                    | "of"
                    | "new"
                    | "delete"
                    | "void"
                    | "throw"
                    | "case"
                    | "do"
                    | "else"
                    | "yield"
                    | "await"
            ),
        }
    }

    fn skip_line(&mut self) {
        self.at += self.rest().find(['\n', '\r', '\u{2028}', '\u{2029}']).unwrap_or(self.rest().len());
    }

    /// A string ends at its quote, or broken at the end of its line.
    fn skip_string(&mut self, quote: char) {
        self.at += 1;
        self.skip_to(|c| c == quote || c == '\n');
        self.before = Before::Value;
    }

    fn skip_regex(&mut self) {
        self.at += 1;
        let mut in_class = false;
        self.skip_to(|c| {
            match c {
                '[' => in_class = true,
                ']' => in_class = false,
                _ => {}
            }
            c == '\n' || (c == '/' && !in_class)
        });
        self.word();
        self.before = Before::Value;
    }

    /// The text of a template up to its end or to the next `${`, within which the reader goes on as usual.
    fn skip_template(&mut self) {
        let mut last = ' ';
        let mut in_substitution = false;
        self.skip_to(|c| {
            in_substitution = c == '{' && last == '$';
            last = c;
            in_substitution || c == '`'
        });
        if in_substitution {
            self.push(Open::Substitution);
            self.before = Before::Operator;
        } else {
            self.before = Before::Value;
        }
    }

    /// Skips beyond the first character that `is_end`, where a backslash hides the next character from it.
    fn skip_to(&mut self, mut is_end: impl FnMut(char) -> bool) {
        let mut characters = self.rest().char_indices();
        while let Some((index, c)) = characters.next() {
            if c == '\\' {
                characters.next();
            } else if is_end(c) {
                self.at += index + c.len_utf8();
                return;
            }
        }
        self.at = self.code.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_return_of_the_outermost_function_is_found() {
        for code in [
            "return 1 + 1",
            "return",
            "const x = 1\nreturn x",
            "if (x) return 1",
            "if (x) { return 1 } else { }",
            "if (a) {} else { return 1 }",
            "for (const a of b) { while (c) { return a } }",
            "for await (const a of b) { return a }",
            "do { return 1 } while (0)",
            "try { f() } catch { return 1 }",
            "try { f() } catch (e) { return 1 } finally { }",
            "try { } finally { return 1 }",
            "switch (a) { case 1: return 2 }",
            "switch (a) { case 'x': { return 2 } default: { } }",
            "switch (a) { default: { return 2 } }",
            "{ return 1 }",
            "function f() { return 1 }\nreturn f()",
            "const f = () => { return 1 }; return f()",
            "class A { m() { return 1 } }; return new A().m()",
            "interface U { name: string }\nconst u: U = { name: 'J' }\nreturn u.name",
            "enum A { X }\nreturn A.X",
            "function f(a: { b: number }): { c: number } { return { c: 1 } }\nreturn f({ b: 1 })",
            "const t = `a ${b ? `}` : '{'} {`; return t",
            "const r = /[/}]\\/{/g; return r",
            "const q = a / b / c; return q",
            "const q = (a) / 2; return `/`",
            "x++ / 2; return 1 / x",
            "// {\nreturn 1",
            "/* { */ return 1",
            "const s = '\\'{'; return s",
            "#!/usr/bin/env node {\nreturn 1",
            "const o = { ...a, return: 1 }; return o",
            "const results = await db({ select: { from: 'things' } })\n  return results.rows.length",
            "const ünï = { a: 1 }; return ünï",
        ] {
            assert!(has_top_level_return(code), "{code}");
        }
    }

    #[test]
    fn returns_of_inner_functions_and_in_texts_are_not() {
        for code in [
            "",
            "console.log('return 1')",
            "// return 1",
            "/* return 1 */",
            "`return ${'x'} return`",
            "`${(() => { return 1 })()}`",
            "/return 1/.test(x)",
            "function f() { if (x) { return 1 } }",
            "async function f() { for (;;) { return 1 } }",
            "function f(): number { return 1 }",
            "function f(): { a: number } { return { a: 1 } }",
            "const f = function () { return 1 }",
            "const f = (a) => { return 1 }",
            "const f = async a => { return a }",
            "const o = { m() { return 1 }, get x() { return 2 }, n(): number { return 3 } }",
            "class A { m() { return 1 } static { } get x(): number { return 2 } }",
            "class A extends B { constructor() { super(); return } }",
            "list.map(function (x) { return x })",
            "iterator.return()",
            "iterator?.return(1)",
            "const o = { return: 1 }",
            "returned()",
            "const $return = 1, return_ = 2",
            "namespace N { export function f() { return 1 } }",
            "'unfinished return",
            "`unfinished return",
            "a = b / c; d = `/ return`",
            "import x from 'y'; export default function () { return 1 }",
        ] {
            assert!(!has_top_level_return(code), "{code}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(code in "\\PC{0,80}", ends in "[(){}\\[\\]`'\"/\\\\$ *\n]{0,40}") {
            has_top_level_return(&code);
            has_top_level_return(&ends);
            has_top_level_return(&format!("{ends}{code}{ends}"));
        }
    }
}
