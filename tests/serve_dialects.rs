//! The faces of the services before this one, against a live server: the calls of their READMEs with the answers that
//! these promise, and what function mode does with code of all kinds.

mod common;
#[allow(dead_code)] // Shared with other tests, which use more of it.
#[path = "serve/harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use harness::{Server, state_directory};

/// One recorded call and its answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    about: String,
    method: String,
    /// In which `{executionId}` stands for that of the answer before.
    path: String,
    /// Without the session's own headers.
    #[serde(default)]
    bare: bool,
    /// Left out where this image is not built.
    image: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    #[serde(default = "ok")]
    status: u16,
    /// JSON, in which `<number>` and the like stand for any value of that kind; nothing where the answer is a page.
    expected: String,
    /// The answer has no further fields.
    #[serde(default)]
    exact: bool,
}

fn ok() -> u16 {
    200
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Session {
    /// The README's environment variables, for the service.
    #[serde(default)]
    variables: BTreeMap<String, String>,
    /// Of every call.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    call: Vec<Call>,
}

/// Where `actual` is not what is expected, if anywhere.
fn difference(expected: &Value, actual: &Value, exact: bool, at: &str) -> Option<String> {
    let differ = || Some(format!("{at}: expected {expected}, got {actual}"));
    match (expected, actual) {
        (Value::String(kind), _) if kind.starts_with('<') && kind.ends_with('>') => {
            let is = match kind.as_str() {
                "<number>" => actual.is_number(),
                "<string>" => actual.as_str().is_some_and(|text| !text.is_empty()),
                "<array>" => actual.as_array().is_some_and(|array| !array.is_empty()),
                other => panic!("{other} is no kind"),
            };
            if is { None } else { differ() }
        }
        (Value::Object(expected), Value::Object(actual)) => {
            let further = actual.keys().find(|key| exact && !expected.contains_key(*key));
            further.map(|key| format!("{at}.{key} is there")).or_else(|| {
                expected.iter().find_map(|(key, value)| {
                    difference(value, actual.get(key).unwrap_or(&Value::Null), exact, &format!("{at}.{key}"))
                })
            })
        }
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            let pairs = expected.iter().zip(actual).enumerate();
            pairs.into_iter().find_map(|(index, (e, a))| difference(e, a, exact, &format!("{at}[{index}]")))
        }
        _ if expected == actual => None,
        _ => differ(),
    }
}

fn has_images(images: &[&str]) -> bool {
    images.iter().all(|image| common::has_image(image))
}

fn assert_session(name: &str) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialects").join(format!("{name}.toml"));
    let session: Session = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert!(session.call.len() > 4);
    if !has_images(&["python", "node", "gcc"]) {
        return;
    }
    let state = state_directory();
    let Some(server) = Server::with_state(state.path(), &session.variables) else { return };
    let mut execution = String::new();
    for call in session.call {
        if call.image.as_deref().is_some_and(|image| !common::has_image(image)) {
            continue;
        }
        let of_all = session.headers.iter().filter(|(name, _)| !call.bare && !call.headers.contains_key(*name));
        let mut headers: Vec<(&str, &str)> =
            of_all.chain(&call.headers).map(|(name, value)| (&**name, &**value)).collect();
        if !call.body.is_empty() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.push(("content-type", "application/json"));
        }
        let path = call.path.replace("{executionId}", &execution);
        let reply = server.call(&call.method, &path, &headers, &call.body);
        assert_eq!(reply.status, call.status, "{name}, {}: {reply:?}", call.about);
        if call.expected.is_empty() {
            assert!(reply.text.starts_with("<!doctype html>"), "{name}, {}: {reply:?}", call.about);
            continue;
        }
        let (expected, answer): (Value, Value) = (serde_json::from_str(&call.expected).unwrap(), reply.json());
        if let Some(difference) = difference(&expected, &answer, call.exact, "answer") {
            panic!("{name}, {}: {difference}\n{reply:?}", call.about);
        }
        if let Some(id) = answer["executionId"].as_str() {
            execution = id.to_owned();
        }
    }
}

#[test]
fn clients_of_the_five_services_get_what_their_documents_promise() {
    for name in ["light", "codesandbox", "workers", "codify", "backend"] {
        assert_session(name);
    }
}

/// A function's answer.
#[track_caller]
fn call(server: &Server, code: &str) -> Value {
    call_with(server, json!({"code": code, "context": {"n": 7}, "config": {"timeout": 20_000}}))
}

#[track_caller]
fn call_with(server: &Server, body: Value) -> Value {
    let reply = server.post_json("/execute", &body);
    assert_eq!(reply.status, 200, "{body}: {reply:?}");
    reply.json()
}

#[test]
fn functions_return_json_and_nothing_else_can_be_taken_for_it() {
    let Some(server) = has_images(&["node"]).then(Server::start).flatten() else { return };
    results(&server);
    errors(&server);
    logs(&server);
    tampering(&server);
    ends(&server);
    typescript(&server);
    kinds(&server);
}

fn results(server: &Server) {
    for (code, result) in [
        ("return null", json!(null)),
        ("return undefined", json!(null)),
        ("'no return'", json!(null)),
        ("return true", json!(true)),
        ("return -1.5e3", json!(-1500)),
        ("return NaN", json!(null)),
        ("return 'é\\u0000\\n🦀'", json!("é\0\n🦀")),
        ("return [1, [], [null]]", json!([1, [], [null]])),
        ("return { a: { b: undefined, c: 1 } }", json!({"a": {"c": 1}})),
        ("return new Date(0)", json!("1970-01-01T00:00:00.000Z")),
        ("return await new Promise(done => setTimeout(() => done(5), 10))", json!(5)),
        ("return Promise.resolve([1])", json!([1])),
        ("for await (const x of [Promise.resolve(3)]) return x", json!(3)),
        ("return context.n", json!(7)),
        ("const context = { n: 8 }, db = 1, console = 2; return context.n", json!(8)),
        ("return [typeof require, typeof module, typeof __dirname]", json!(["undefined", "undefined", "undefined"])),
        ("return (await import('node:path')).basename('/a/b')", json!("b")),
        ("// a comment at the end\nreturn 1 // }", json!(1)),
    ] {
        let answer = call(server, code);
        assert_eq!((&answer["success"], &answer["result"]), (&json!(true), &result), "{code}: {answer}");
        assert_eq!(answer["error"], json!(null), "{code}");
    }
    // Keys keep their order and numbers their digits.
    let reply =
        server.post_json("/execute", &json!({"code": "return { z: 1, a: 12345678901234567890 }", "context": {}}));
    assert!(reply.text.contains(r#""result":{"z":1,"a":12345678901234567000}"#), "{reply:?}");
}

fn errors(server: &Server) {
    for (code, name, error, place) in [
        ("throw new Error('boom')", "Error", "boom", Some((1, 7))),
        ("const a = 1\n\n  missing(a)", "ReferenceError", "missing is not defined", Some((3, 3))),
        (
            "function f() {\n  null.x\n}\nreturn f()",
            "TypeError",
            "Cannot read properties of null (reading 'x')",
            Some((2, 8)),
        ),
        ("const a = ;", "SyntaxError", "Unexpected token ';'", Some((1, 11))),
        ("import fs from 'fs'; return 1", "SyntaxError", "Cannot use import statement outside a module", Some((1, 1))),
        ("throw 'text'", "", "text", None),
        ("throw null", "", "null", None),
        ("throw { get message() { throw 1 } }", "", "something was thrown that cannot be shown", None),
        ("class MyError extends Error { name = 'MyError' }\nthrow new MyError('own')", "MyError", "own", Some((2, 7))),
        ("return require('fs')", "ReferenceError", "require is not defined", Some((1, 1))),
        ("return 1n", "TypeError", "the result cannot be written as JSON: Do not know how to serialize a BigInt", None),
        ("return () => 1", "TypeError", "the result is a function, which JSON has no word for", None),
        ("return Symbol('s')", "TypeError", "the result is a symbol, which JSON has no word for", None),
        (
            "setTimeout(() => { throw new Error('late') }, 5); await new Promise(() => {})",
            "Error",
            "late",
            Some((1, 26)),
        ),
        (
            "Promise.reject(new Error('lost')); await new Promise(done => setTimeout(done, 50))",
            "Error",
            "lost",
            Some((1, 16)),
        ),
        (
            "return 'x'.repeat(2 << 20)",
            "RangeError",
            "the result has 2097154 bytes of JSON; at most 1048576 are kept",
            None,
        ),
    ] {
        let answer = call(server, code);
        assert_eq!((&answer["success"], &answer["result"]), (&json!(false), &json!(null)), "{code}: {answer}");
        assert_eq!(answer["error"], error, "{code}: {answer}");
        let detail = &answer["errorDetail"];
        assert_eq!(detail["name"], name, "{code}: {answer}");
        assert_eq!(
            (&detail["line"], &detail["column"]),
            (&json!(place.map(|p| p.0)), &json!(place.map(|p| p.1))),
            "{code}"
        );
    }
    let cyclic = call(server, "const a = {}; a.a = a; return a");
    assert!(cyclic["error"].as_str().unwrap().contains("circular structure"), "{cyclic}");
}

fn logs(server: &Server) {
    let levels = call(
        server,
        "console.log('a %d', 1, { b: [2] }); console.info('i'); console.debug('d'); console.warn('w'); console.error('e');\n\
         console.group('g'); console.table([]); console.groupEnd(); console.assert(1 > 2, 'no'); console.count(); return 1",
    );
    let logs: Vec<_> = levels["logs"].as_array().unwrap().iter().map(|log| (&log["level"], &log["message"])).collect();
    let first: Vec<_> =
        logs.iter().map(|(level, message)| (level.as_str().unwrap(), message.as_str().unwrap())).collect();
    assert_eq!(
        first[..6],
        [("log", "a 1 { b: [ 2 ] }"), ("info", "i"), ("debug", "d"), ("warn", "w"), ("error", "e"), ("log", "g")]
    );
    assert!(first.contains(&("warn", "Assertion failed: no")) && first.contains(&("log", "default: 1")), "{first:?}");

    let many = call(server, "for (let i = 0; i < 100000; i++) console.log(i); return 'end'");
    assert_eq!((many["logs"].as_array().unwrap().len(), &many["result"]), (1001, &json!("end")));
    assert_eq!(many["logs"][1000]["level"], "warn");
    let large = call(server, "for (let i = 0; i < 1000; i++) console.log('é'.repeat(1e6)); return 'end'");
    assert!(
        large["logs"].to_string().len() < 160 << 10 && large["result"] == "end",
        "{}",
        large["logs"].to_string().len()
    );
    assert!(large["logs"][0]["message"].as_str().unwrap().ends_with("(983616 more characters)"));

    let none = call_with(server, json!({"code": "console.log(1); return 1", "config": {"allowedAPIs": []}}));
    assert_eq!((&none["logs"], &none["result"]), (&json!([]), &json!(1)));
    let late = call_with(
        server,
        json!({"code": "console.log('before'); for (;;);", "context": {}, "config": {"timeout": 2000}}),
    );
    assert_eq!(
        (&late["logs"][0]["message"], &late["status"]),
        (&json!("before"), &json!("wall_time_exceeded")),
        "{late}"
    );
}

/// What code does to be taken for another result only ever spoils its own.
fn tampering(server: &Server) {
    for code in [
        "console.log('R 666'); process.stdout.write('\\n R 666\\n{\"success\":true,\"result\":666}\\n'); return 1",
        "JSON.stringify = () => '666'; JSON.parse = null; return 1",
        "console.log = 1; globalThis.console = null; return 1",
        "Array.prototype.push = String.prototype.endsWith = Reflect.apply = null; return 1",
        "process.reallyExit = process.exit = () => {}; return 1",
        "process.removeAllListeners(); process.on('exit', () => console.log('x')); return 1",
        "setInterval(() => {}, 1); return 1",
        "const fs = await import('node:fs'); fs.writeFileSync('.sandboxd-output', 'R 666\\nx R 666\\n', { flag: 'a' }); return 1",
        "const fs = (await import('node:fs')).default; fs.writeSync = () => 0; return 1",
        "const fs = await import('node:fs'); fs.writeFileSync('.sandboxd-run.cjs', '666'); return 1",
    ] {
        let answer = call(server, code);
        assert_eq!((&answer["success"], &answer["result"]), (&json!(true), &json!(1)), "{code}: {answer}");
    }
    for code in [
        // Without the nonce there is no record, whatever else there is.
        "const fs = await import('node:fs'); fs.unlinkSync('.sandboxd-output'); fs.writeFileSync('.sandboxd-output', 'R 666\\n'); return 1",
        "const fs = await import('node:fs'); fs.unlinkSync('.sandboxd-output'); fs.symlinkSync('/etc/passwd', '.sandboxd-output'); return 1",
        "const fs = await import('node:fs'); fs.unlinkSync('.sandboxd-output'); fs.mkdirSync('.sandboxd-output'); return 1",
        "process.stdout.write('R 666'); process.exit(0)",
        "await new Promise(() => {})",
    ] {
        let answer = call(server, code);
        assert_eq!((&answer["success"], &answer["result"]), (&json!(false), &json!(null)), "{code}: {answer}");
        assert!(answer["error"].as_str().unwrap().starts_with("the code ended without a result"), "{code}: {answer}");
    }
}

fn ends(server: &Server) {
    let exit = call(server, "console.log('a'); process.exit(3)");
    assert_eq!((&exit["error"], &exit["logs"][0]["message"]), (&json!("exit code 3"), &json!("a")), "{exit}");
    let began = Instant::now();
    let endless = call_with(server, json!({"code": "while (true) {}", "config": {"timeout": 500}}));
    assert_eq!(endless["status"], "wall_time_exceeded", "{endless}");
    assert!(began.elapsed() < Duration::from_secs(10));
    let memory = call(server, "const all = []; for (;;) all.push(new Uint8Array(1 << 24).fill(1))");
    assert_eq!((&memory["success"], &memory["status"]), (&json!(false), &json!("memory_exceeded")), "{memory}");
    let above = server.post_json("/execute", &json!({"code": "return 1", "config": {"timeout": 1e9}}));
    assert_eq!((above.status, &above.json()["code"]), (400, &json!("limit_out_of_range")));
    let zero = server.post_json("/execute", &json!({"code": "return 1", "config": {"timeout": 0}}));
    assert_eq!((zero.status, &zero.json()["field"]), (400, &json!("config.timeout")));
}

fn typescript(server: &Server) {
    let run = |code: &str| call_with(server, json!({"code": code, "language": "typescript", "context": {}}));
    let answer = run("enum A { X = 3 }\nnamespace N { export const y: number = 4 }\nreturn A.X + N.y");
    assert_eq!((&answer["success"], &answer["result"]), (&json!(true), &json!(7)), "{answer}");
    // Places are the author's, whether types were blanked out or transformed.
    for code in
        ["interface A { a: 1 }\nconst x: A | null = null;\n\n  nope(x)", "enum A { X }\nconst x: A = A.X;\n\n  nope(x)"]
    {
        let answer = run(code);
        let place = (&answer["errorDetail"]["line"], &answer["errorDetail"]["column"]);
        assert_eq!((place, &answer["error"]), ((&json!(4), &json!(3)), &json!("nope is not defined")), "{answer}");
    }
    let broken = run("let a = 1\nlet b: number = ;");
    assert_eq!((&broken["errorDetail"]["line"], &broken["errorDetail"]["column"]), (&json!(2), &json!(17)), "{broken}");
}

/// A program where there is nothing of a function.
fn kinds(server: &Server) {
    let program = call_with(server, json!({"code": "console.log('a'); console.error('b')", "language": "javascript"}));
    assert_eq!((&program["output"], &program["success"]), (&json!("a\n"), &json!(true)), "{program}");
    assert_eq!(program["logs"], json!([{"level": "log", "message": "a"}, {"level": "error", "message": "b"}]));
    let module =
        call_with(server, json!({"code": "import fs from 'node:fs'; console.log(typeof fs)", "language": "js"}));
    assert_eq!(module["output"], "object\n", "{module}");
    let function = call_with(server, json!({"code": "if (1) { return 'f' }", "language": "node"}));
    assert_eq!(function["result"], "f", "{function}");
    let unknown = server.post_json("/execute", &json!({"code": "return 1", "language": "javascrip", "context": {}}));
    assert_eq!((unknown.status, &unknown.json()["hint"]), (400, &json!("did you mean `javascript`?")));
}

#[test]
fn code_is_checked_without_running_it() {
    let Some(server) = has_images(&["python", "node", "gcc"]).then(Server::start).flatten() else { return };
    let check = |language: &str, code: &str| {
        let reply = server.post_json("/validate", &json!({"code": code, "language": language}));
        assert_eq!(reply.status, 200, "{code}: {reply:?}");
        reply.json()
    };
    for (language, code) in [
        ("javascript", "return await f()"),
        ("javascript", "import a from 'b'\nawait a()"),
        ("javascript", "console.log(`${1}`)"),
        ("typescript", "interface A { a: number }\nreturn (null as A | null)"),
        ("typescript", "import type { A } from 'b'\nconst a: A = await 1\nexport { a }"),
        ("typescript", "enum A { X }\nconst a: A = A.X"),
        ("python", "def f():\n    return 1\n"),
        ("bash", "for x in a b; do echo $x; done"),
        ("c", "int main(void) { return 0; }"),
        ("cpp", "#include <vector>\nint main() { std::vector<int> v; }"),
    ] {
        let answer = check(language, code);
        assert_eq!((&answer["valid"], &answer["errors"]), (&json!(true), &json!([])), "{code}: {answer}");
    }
    for (language, code, line, column) in [
        ("javascript", "let a = 1;\n\tlet é = ;", 2, Some(10)),
        ("javascript", "import a from 'b';\nlet x = ", 2, None),
        ("javascript", "return 1;\n  const x = ;", 2, Some(13)),
        ("javascript", "let a; let a", 1, Some(12)),
        ("typescript", "let a: number = 1;\nlet b: number = ;", 2, Some(17)),
        ("typescript", "let a: number = 1;\nlet a = 2", 2, Some(5)),
        ("typescript", "return 1 as number;\nlet b: = 2", 2, Some(8)),
        ("python", "def f():\n    x = (1,\n", 2, Some(9)),
        ("python", "if x:\nprint(1)", 2, Some(1)),
        ("bash", "echo a\necho )", 2, None),
        ("c", "int main(void) {\n\treturn x;\n}", 2, Some(9)),
        ("cpp", "int main() { retrn 0; }", 1, Some(14)),
    ] {
        let answer = check(language, code);
        assert_eq!(answer["valid"], false, "{code}: {answer}");
        let first = &answer["errors"][0];
        assert_eq!((&first["line"], &first["column"]), (&json!(line), &json!(column)), "{code}: {answer}");
        assert!(first["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
    }
    let warned = check("c", "int main(void) {\n  int x;\n  return 0;\n}");
    assert_eq!((&warned["valid"], &warned["warnings"][0]["line"]), (&json!(true), &json!(2)), "{warned}");
    // It is not run, and is no execution.
    let quiet = check("python", "open('/work/x', 'w'); print('ran'); raise SystemExit(1)");
    assert_eq!(quiet["valid"], true, "{quiet}");
    assert_eq!(server.get("/executions").json()["total"], 0);
    let unknown = server.post_json("/validate", &json!({"code": "x", "language": "brainfuck"}));
    assert_eq!((unknown.status, &unknown.json()["field"]), (400, &json!("language")));
}

#[test]
fn the_history_of_functions_survives_a_restart() {
    if !has_images(&["node"]) {
        return;
    }
    let state = state_directory();
    let start = || Server::with_state(state.path(), &BTreeMap::new());
    let Some(server) = start() else { return };
    let good = call(&server, "console.warn('kept'); return { kept: [1, 2] }");
    let bad = call(&server, "const a = 1\nthrow new TypeError('thrown')");
    let without = call(&server, "process.exit(0)");
    let ids: Vec<String> =
        [&good, &bad, &without].map(|answer| answer["executionId"].as_str().unwrap().to_owned()).into();
    let before: Vec<Value> = ids.iter().map(|id| server.get(&format!("/executions/{id}")).json()).collect();
    drop(server);
    let Some(server) = start() else { return };
    for (id, before) in ids.iter().zip(&before) {
        assert_eq!(&server.get(&format!("/executions/{id}")).json(), before);
    }
    let past = &before[0];
    assert_eq!((&past["success"], &past["result"]), (&json!(true), &json!({"kept": [1, 2]})), "{past}");
    assert_eq!(past["logs"], json!([{"level": "warn", "message": "kept"}]));
    assert_eq!((&past["audit"]["dialect"], &past["audit"]["address"]), (&json!("workers"), &json!("127.0.0.1")));
    assert_eq!(past["audit"]["sourceSha256"].as_str().map(str::len), Some(64));
    let past = &before[1];
    assert_eq!(
        (&past["success"], &past["error"], &past["errorDetail"]["line"]),
        (&json!(false), &json!("thrown"), &json!(2))
    );
    assert_eq!((&before[2]["success"], &before[2]["error"]), (&json!(false), &without["error"]));
    let list = server.get("/executions?limit=2&offset=1").json();
    assert_eq!((&list["total"], &list["hasMore"]), (&json!(3), &json!(false)), "{list}");
    let listed: Vec<_> = list["executions"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(listed, [&ids[1], &ids[0]]);
}
