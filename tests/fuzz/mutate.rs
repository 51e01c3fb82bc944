//! Changes to an input: of bits and bytes, of numbers and words as its format has them, and of its parts and another's.

use std::fs;
use std::path::Path;

/// Numbers without a secret: SplitMix64, whose whole state is one number that can be told.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `count`, or 0.
    pub fn below(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { (self.next() % count as u64) as usize }
    }

    pub fn pick<'a>(&mut self, among: &'a [String]) -> &'a str {
        among.get(self.below(among.len())).map_or("", String::as_str)
    }
}

/// What is put into inputs.
pub struct Words {
    /// Of the target's own language.
    own: Vec<String>,
    /// What texts trip over, whatever their language.
    text: Vec<String>,
    /// Numbers at which something often changes, as texts have them.
    numbers: Vec<String>,
}

impl Words {
    /// Those of the lists `own` in `tests/fuzz/words`.
    pub fn read(own: &[&str]) -> Words {
        let own = own.iter().flat_map(|name| list(name)).collect();
        Words { own, text: list("text"), numbers: list("numbers") }
    }
}

/// One word a line, with the escapes that Rust has.
fn list(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/words").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.lines().map(plain).collect()
}

fn plain(word: &str) -> String {
    let (mut plain, mut letters) = (String::new(), word.chars());
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        plain.push(match letters.next().expect("an escape") {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let digits: String = letters.by_ref().take_while(|letter| *letter != '}').skip(1).collect();
                u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32).expect("a character")
            }
            other => other,
        });
    }
    plain
}

/// Numbers at which something often changes, as binary formats have them.
const LENGTHS: &[u64] = &[
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x3fff,
    0x4000,
    0x7fff,
    0xffff,
    0x1_0000,
    160 << 10,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

/// A new input out of `input`, by one to five changes; at most `bytes_max` long.
pub fn mutate(dice: &mut Dice, input: &[u8], other: &[u8], words: &Words, bytes_max: usize) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..1 + dice.below(5) {
        change(dice, &mut bytes, other, words);
        bytes.truncate(bytes_max);
    }
    bytes
}

fn change(dice: &mut Dice, bytes: &mut Vec<u8>, other: &[u8], words: &Words) {
    let at = dice.below(bytes.len() + 1);
    let until = (at + 1 + dice.below(16)).min(bytes.len());
    match dice.below(18) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = [0, 1, 0x20, 0x7f, 0x80, 0xbf, 0xc2, 0xe2, 0xf0, 0xff, dice.next() as u8][dice.below(11)];
            }
        }
        2 => drop(bytes.drain(at.min(until)..until)),
        3 => {
            let until = at + dice.below(bytes.len() - at + 1);
            bytes.drain(at..until);
        }
        4 => {
            let piece = bytes[at.min(until)..until].to_vec();
            let times = [1, 1, 2, 3, 10, 300][dice.below(6)];
            insert(bytes, at, &piece.repeat(times));
        }
        5 | 6 => insert(bytes, at, dice.pick(&words.own).as_bytes()),
        7 => {
            let word = dice.pick(&words.own);
            replace(bytes, at, (at + word.len()).min(bytes.len()), word.as_bytes());
        }
        8 => insert(bytes, at, dice.pick(&words.text).as_bytes()),
        9 | 10 => number(dice, bytes, at, &words.numbers),
        11 => {
            let value = LENGTHS[dice.below(LENGTHS.len())];
            let width = [1, 2, 4, 8][dice.below(4)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        12 => {
            // As postcard and protobuf write lengths.
            let (mut value, mut varint) = (LENGTHS[dice.below(LENGTHS.len())], Vec::new());
            while value > 0x7f {
                varint.push(value as u8 | 0x80);
                value >>= 7;
            }
            varint.push(value as u8);
            replace(bytes, at, (at + dice.below(3)).min(bytes.len()), &varint);
        }
        13 => {
            // The beginning of one, the end of the other.
            let from = dice.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        14 => {
            let from = dice.below(other.len() + 1);
            let until = from + dice.below((other.len() - from).min(200) + 1);
            insert(bytes, at, &other[from..until]);
        }
        15 => lines(dice, bytes),
        _ => value(dice, bytes, at, words),
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    replace(bytes, at, at, piece);
}

fn replace(bytes: &mut Vec<u8>, from: usize, until: usize, piece: &[u8]) {
    bytes.splice(from..until, piece.iter().copied());
}

/// Puts another number in the place of the next one.
fn number(dice: &mut Dice, bytes: &mut Vec<u8>, at: usize, numbers: &[String]) {
    let Some(from) = bytes[at..].iter().position(u8::is_ascii_digit).map(|offset| at + offset) else { return };
    let until =
        bytes[from..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |offset| from + offset);
    let new = dice.pick(numbers);
    replace(bytes, from, until, new.as_bytes());
}

/// Takes a line away, doubles it, or puts it elsewhere.
fn lines(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let (one, two) = (dice.below(lines.len()), dice.below(lines.len()));
    match dice.below(3) {
        0 => drop(lines.remove(one)),
        1 => lines.insert(two, lines[one].clone()),
        _ => lines.swap(one, two),
    }
    *bytes = lines.join(&b'\n');
}

/// Puts a word or number in the place of the next value, as JSON, TOML and headers have them.
fn value(dice: &mut Dice, bytes: &mut Vec<u8>, at: usize, words: &Words) {
    let Some(from) = bytes[at..].iter().position(|byte| b":=".contains(byte)).map(|offset| at + offset + 1) else {
        return;
    };
    let until =
        bytes[from..].iter().position(|byte| b",}]\n".contains(byte)).map_or(bytes.len(), |offset| from + offset);
    let new = [&words.own, &words.own, &words.text, &words.numbers][dice.below(4)];
    let new = dice.pick(new);
    let quoted = format!("\"{new}\"");
    replace(bytes, from, until, if dice.below(3) == 0 { quoted.as_bytes() } else { new.as_bytes() });
}
