//! Builds the attacks of `sandboxd selftest` into one static program, which the binary carries as data: an operator's
//! host needs no compiler to try them.
//!
//! They are C because they are the kernel's own idiom and run inside cells only, where no rule of this code base has to
//! hold; sandboxd itself never calls them. The C compiler is the one that links Rust programs on Linux anyway (`CC`
//! names another), with a static C library (Debian: libc6-dev).

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

const SOURCES: &str = "src/selftest/programs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCES}");
    println!("cargo::rerun-if-env-changed=CC");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut names: Vec<String> = std::fs::read_dir(SOURCES)
        .expect("the attacks are part of the source")
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".c")?.to_owned()))
        .filter(|name| name != "dispatch")
        .collect();
    names.sort();
    let list: String = names.iter().map(|name| format!(" X({name})")).collect();
    std::fs::write(out.join("programs.inc"), format!("#define PROGRAMS(X){list}\n")).expect("OUT_DIR is writable");

    // All at once: each is a moment of one core.
    let renamed = names.iter().map(|name| (name.as_str(), Some(format!("-Dmain=attack_{name}"))));
    let running: Vec<(PathBuf, Child)> = renamed
        .chain([("dispatch", None)])
        .map(|(name, rename)| {
            let object = out.join(format!("{name}.o"));
            let mut command = compiler();
            command.args(["-std=gnu17", "-O1", "-Wall", "-Wextra", "-c", "-o"]).arg(&object);
            command.arg("-I").arg(&out).args(rename).arg(Path::new(SOURCES).join(format!("{name}.c")));
            (object, command.spawn().unwrap_or_else(|error| panic!("the C compiler does not start: {error}")))
        })
        .collect();
    let objects: Vec<PathBuf> = running
        .into_iter()
        .map(|(object, mut child)| {
            let status = child.wait().expect("the C compiler can be waited for");
            assert!(status.success(), "{} does not compile", object.display());
            object
        })
        .collect();
    let linked = compiler().args(["-static", "-s", "-o"]).arg(out.join("attack")).args(objects).status();
    assert!(
        linked.is_ok_and(|status| status.success()),
        "the attacks do not link: a static C library is needed (Debian: apt-get install libc6-dev)"
    );
}

fn compiler() -> Command {
    Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
}
