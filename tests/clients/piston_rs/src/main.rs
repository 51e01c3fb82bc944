//! crates.io's piston_rs against a service: piston-rs-client BASE.

use piston_rs::{Client, ExecResponse, Executor, File};

/// What `executor` comes to.
async fn run(client: &Client, executor: Executor) -> ExecResponse {
    client.execute(&executor).await.expect("the service answers in Piston's shape")
}

fn job(language: &str, content: &str) -> Executor {
    Executor::new().set_language(language).add_file(File::default().set_content(content))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let base = std::env::args().nth(1).expect("usage: piston-rs-client BASE");
    let client = Client::with_url(&format!("{base}/api/v2/piston"));

    let runtimes = client.fetch_runtimes().await.expect("the runtimes are listed");
    let python = runtimes.iter().find(|runtime| runtime.language == "python").expect("Python is one");
    assert!(python.aliases.iter().any(|alias| alias == "py"), "{python:?}");

    let reverse = job("python", "import sys\nprint(input()[::-1], sys.argv[1:])").set_version(&python.version);
    let answer = run(&client, reverse.set_stdin("!dlrow").add_arg("a b")).await;
    assert!(answer.is_ok() && answer.run.is_ok(), "{answer:?}");
    assert_eq!((answer.run.stdout.as_str(), answer.run.code), ("world! ['a b']\n", Some(0)));
    assert_eq!((answer.language.as_str(), &answer.version), ("python", &python.version));
    assert!(answer.compile.is_none(), "{answer:?}");

    let answer = run(&client, job("python", "import sys\nprint('no', file=sys.stderr)\nsys.exit(3)")).await;
    assert!(answer.is_ok() && answer.run.is_err(), "{answer:?}");
    assert_eq!((answer.run.stderr.as_str(), answer.run.code), ("no\n", Some(3)));

    let answer = run(&client, job("c", "int main(void) { return nothing; }")).await;
    let compile = answer.compile.as_ref().unwrap_or_else(|| panic!("no compile step: {answer:?}"));
    assert!(compile.is_err() && compile.stderr.contains("nothing"), "{answer:?}");
    assert_eq!((compile.code, answer.run.code), (Some(1), Some(1)));

    let answer = run(&client, job("no-such-language", "x").set_version("1.0.0")).await;
    assert_eq!(answer.status, 400);
    assert!(answer.run.stderr.contains("no-such-language-1.0.0 runtime is unknown"), "{answer:?}");

    println!("ok: piston_rs");
}
