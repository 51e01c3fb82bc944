// Function mode: calls the author's code as the body of an async function, and writes down what it returns and logs.
//
// It runs in the cell with the code, in the same realm, so nothing here is a boundary. It only sees to it that code which
// prints, replaces globals or ends the process cannot be mistaken for code that returned: what it records goes to a file of
// its own, line by line, each with a nonce that came over stdin and is in no variable the code can reach, by functions
// that were taken before the code began. Lines: NONCE L {log}, NONCE R result, NONCE E {error}.
'use strict';
const fs = require('node:fs');
const vm = require('node:vm');
const { Console } = require('node:console');
const { inspect } = require('node:util');
const { stripTypeScriptTypes, SourceMap } = require('node:module');
const { parse, stringify } = JSON;
const { apply, defineProperty, ownKeys } = Reflect;
const { byteLength } = Buffer;
const { writeSync } = fs;
const exit = process.reallyExit.bind(process);

// Each side reads these numbers for itself: see the constants of mod.rs.
const LOGS_MAX = 1000;
const LOGS_BYTES_MAX = 128 * 1024;
const MESSAGE_LENGTH_MAX = 16 * 1024;
const RESULT_BYTES_MAX = 1024 * 1024;

const job = parse(fs.readFileSync(0, 'utf8'));
const { nonce, file, apis } = job;
const output = fs.openSync(job.output, 'ax');

function record(kind, text) {
  writeSync(output, nonce + ' ' + kind + ' ' + text + '\n');
}

function short(text) {
  const more = text.length - MESSAGE_LENGTH_MAX;
  return more > 0 ? text.slice(0, MESSAGE_LENGTH_MAX) + `… (${more} more characters)` : text;
}

// --- console ----------------------------------------------------------------------------------------------------------

let logs = 0;
let logsBytes = 0;
let level = 'log';

function log(message) {
  if (logs > LOGS_MAX) return;
  // Texts alone are written by stringify: an object's toJSON could be the code's.
  let line = '{"level":"' + level + '","message":' + stringify(short(message)) + '}';
  logs += 1;
  logsBytes += byteLength(line);
  if (logs > LOGS_MAX || logsBytes > LOGS_BYTES_MAX) {
    logs = LOGS_MAX + 1;
    line = `{"level":"warn","message":"further console calls are not kept: more than ${LOGS_MAX}, or ${LOGS_BYTES_MAX} bytes"}`;
  }
  try {
    record('L', line);
  } catch {
    // The code has filled or closed what is written to; that is no error of console.log.
  }
}

const ignore = () => {};
const stream = {
  write: (text) => (log(text.endsWith('\n') ? text.slice(0, -1) : text), true),
  on: ignore, once: ignore, removeListener: ignore, listenerCount: () => 0,
};
const inner = new Console({ stdout: stream, stderr: stream, colorMode: false });
const levels = { __proto__: null, info: 'info', debug: 'debug', warn: 'warn', assert: 'warn', error: 'error', trace: 'error' };

function define(name, value) {
  defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: true });
}

function defineConsole(kept) {
  const shim = {};
  for (const name of ownKeys(console)) {
    const method = inner[name];
    if (typeof name !== 'string' || typeof method !== 'function' || name === 'Console') continue;
    shim[name] = kept ? (...values) => {
      const before = level;
      level = levels[name] ?? 'log';
      try {
        return apply(method, inner, values);
      } finally {
        level = before;
      }
    } : ignore;
  }
  define('console', shim);
}

// --- the end ----------------------------------------------------------------------------------------------------------

let ended = false;

function end(kind, text, code) {
  if (ended) return;
  ended = true;
  record(kind, text);
  exit(code);
}

function fail(name, message, place) {
  const at = place ? `,"line":${place[0]},"column":${place[1]}` : '';
  end('E', '{"name":' + stringify(short(name)) + ',"message":' + stringify(short(message)) + at + '}', 1);
}

function failWith(error) {
  let name = '', message, place;
  try {
    const isError = typeof error === 'object' && error !== null && 'message' in error;
    name = isError ? String(error.name ?? '') : '';
    message = isError ? String(error.message) : typeof error === 'string' ? error : inspect(error);
  } catch {
    message = 'something was thrown that cannot be shown';
  }
  try {
    place = placeOf(error.stack);
  } catch {
    // Then it is not known.
  }
  fail(name, message, place);
}

function succeed(value) {
  let text;
  try {
    text = value === undefined ? 'null' : stringify(value);
  } catch (error) {
    return fail('TypeError', `the result cannot be written as JSON: ${error?.message ?? error}`);
  }
  if (typeof text !== 'string') return fail('TypeError', `the result is a ${typeof value}, which JSON has no word for`);
  const bytes = byteLength(text);
  if (bytes > RESULT_BYTES_MAX) return fail('RangeError', `the result has ${bytes} bytes of JSON; at most ${RESULT_BYTES_MAX} are kept`);
  end('R', text, 0);
}

// --- the code ---------------------------------------------------------------------------------------------------------

let map;
// Lines before the author's in what a place is told of.
let linesBefore = 0;

// Line and column in the author's code, of the first place in it that a stack tells.
function placeOf(stack) {
  let place;
  const marked = /^(?:main\.[jt]s)?:(\d+)\n(?:.*\n)+?([ \t]*)\^+[ \t]*\n/.exec(stack);
  if (marked) {
    place = [Number(marked[1]), marked[2].length + 1];
  } else {
    const frame = /\bmain\.[jt]s:(\d+):(\d+)/.exec(stack);
    if (!frame) return undefined;
    place = [Number(frame[1]), Number(frame[2])];
  }
  if (map) {
    const entry = map.findEntry(place[0] - 1, place[1] - 1);
    if (entry.originalLine === undefined) return undefined;
    place = [entry.originalLine + 1, entry.originalColumn + 1];
  }
  return [Math.max(place[0] - linesBefore, 1), place[1]];
}

function compile() {
  let text = '(async function () {\n' + fs.readFileSync(file, 'utf8') + '\n})';
  if (file === 'main.ts') {
    linesBefore = 1;
    try {
      // Types are blanked out: every place stays where it was.
      text = stripTypeScriptTypes(text, { mode: 'strip' });
    } catch (error) {
      if (error.code !== 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX') throw error;
      text = stripTypeScriptTypes(text, { mode: 'transform', sourceMap: true });
      const encoded = /sourceMappingURL=data:application\/json;base64,([\w+/=]+)/.exec(text);
      if (encoded) map = new SourceMap(parse(Buffer.from(encoded[1], 'base64').toString()));
    }
  }
  const importModuleDynamically = vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER;
  // An end that is missing is missed in the line after the last.
  linesBefore = map ? 1 : 0;
  const options = { filename: file, lineOffset: map ? 0 : -1, importModuleDynamically };
  const made = new vm.Script(text, options).runInThisContext();
  if (typeof made !== 'function') throw new SyntaxError('the code is not the body of a function');
  return made;
}

process.emitWarning = ignore;
defineConsole(!apis || apis.includes('console'));
for (const name of ['ai', 'api', 'db']) {
  const why = !apis || apis.includes(name)
    ? `${name} is not available in this service`
    : `${name} is not allowed: config.allowedAPIs is ${apis.join(', ') || 'empty'}`;
  define(name, async () => { throw new Error(why); });
}
define('context', job.context);
process.on('uncaughtException', failWith);

(async () => {
  let value;
  try {
    value = await compile()();
  } catch (error) {
    return failWith(error);
  }
  succeed(value);
})();
