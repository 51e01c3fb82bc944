//! The pages in a real browser: `tests/pages/check.py` drives a headless Chromium against the router's own files, with a
//! stand-in for the API behind them. With `SANDBOXD_PAGES_BASE` set to the address of a service, against that instead.

mod common;

use std::process::Command;

use axum::Router;

/// Programs the test needs, which `scripts/setup` installs.
const PROGRAMS: [&str; 4] = ["chromium", "chromedriver", "python3", "curl"];

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_work_in_a_browser() {
    let missing: Vec<_> =
        PROGRAMS.iter().filter(|name| Command::new(name).arg("--version").output().is_err()).collect();
    if !missing.is_empty() {
        let remedy = format!("missing: {missing:?}; apt-get install chromium chromium-driver python3 curl");
        assert!(!common::nothing_may_be_missing(), "{remedy}");
        eprintln!("skipped: {remedy}");
        return;
    }
    // Whatever the browser and its driver leave when they are killed goes with this.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new("python3");
    command.arg("tests/pages/check.py").current_dir(env!("CARGO_MANIFEST_DIR")).env("TMPDIR", directory.path());
    if let Ok(base) = std::env::var("SANDBOXD_PAGES_BASE") {
        command.args(["--base", &base]);
    } else {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let address = listener.local_addr().expect("the port has a number");
        let router: Router =
            sandboxd::api::pages::pages(|| vec!["bash".to_owned(), "c".to_owned(), "python".to_owned()]);
        tokio::spawn(async move { axum::serve(listener, router).await });
        command.args(["--pages", &format!("http://{address}")]);
    }
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("the thread ends").expect("python3 starts");
    let (said, errors) = (common::text(&output.stdout), common::text(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    println!("{said}");
}
