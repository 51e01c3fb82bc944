//! Builds with scripts in place of mmdebstrap and the rest: the store's promises, without root or a network.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use super::lock::{Contention, StoreLock};
use super::progress::Silent;
use super::verify::Problem;
use super::*;

const BASE: &str = "description = 'd'\nlayers = ['base']\n[layer]\nsuite = 's'\nbuild_space_mb = 1\n";
const TOP: &str = "description = 'd'\nlayers = ['base', 'top']\n[layer]\nbuild_space_mb = 1\npackages = ['top']\n";

/// The tree is the second last word but for mirrors; the hook names the file for the list of packages.
const MMDEBSTRAP: &str = r#"#!/bin/sh
umask 022
for word; do
  case "$word" in
    --extract-hook=*) debs=${word##*> }; debs=${debs#\'}; debs=${debs%\'} ;;
    --include=*) include=${word#--include=} ;;
  esac
  tree=$word
done
mkdir -p "$tree/usr/bin" "$tree/usr/lib" "$tree/tmp" || exit 1
chmod 755 "$tree" "$tree/tmp"
echo shell > "$tree/usr/bin/sh"
case "$include" in *top*) echo top > "$tree/usr/bin/top" ;; esac
echo "aa  base_1.0_all.deb" > "$debs"
"#;

struct Bench {
    directory: tempfile::TempDir,
    recipes: Recipes,
    store: Store,
    tools: SystemTools,
}

impl Bench {
    /// `epilogue` is added to the fake mmdebstrap.
    fn new(epilogue: &str) -> Bench {
        Bench::at(tempfile::tempdir().unwrap(), epilogue)
    }

    fn at(directory: tempfile::TempDir, epilogue: &str) -> Bench {
        let at = |name: &str| directory.path().join(name);
        for name in ["recipes", "bin"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at("recipes/base.toml"), BASE).unwrap();
        fs::write(at("recipes/top.toml"), TOP).unwrap();
        fs::write(at("bin/mmdebstrap"), format!("{MMDEBSTRAP}{epilogue}\n")).unwrap();
        fs::set_permissions(at("bin/mmdebstrap"), fs::Permissions::from_mode(0o755)).unwrap();
        let search = [at("bin"), "/usr/bin".into(), "/bin".into(), "/usr/sbin".into()];
        Bench {
            recipes: Recipes::load(Some(&at("recipes"))).unwrap(),
            store: Store::open(&at("store")).unwrap(),
            tools: SystemTools { search: search.to_vec(), contained: false, needs_root: false },
            directory,
        }
    }

    fn try_build(&self, name: &str, options: &BuildOptions) -> Result<Built, RootfsError> {
        build(&self.store, &self.recipes, name, options, &self.tools, &mut Silent)
    }

    /// As a directory: that needs no tool of the machine.
    fn build(&self, name: &str) -> Built {
        self.try_build(name, &directory_format()).unwrap()
    }

    fn store_file(&self, name: &str) -> PathBuf {
        self.directory.path().join("store").join(name)
    }

    fn left_in_tmp(&self) -> usize {
        fs::read_dir(self.store_file("tmp")).map_or(0, |entries| entries.count())
    }

    fn layer_files(&self) -> usize {
        fs::read_dir(self.store_file("layers")).map_or(0, |entries| entries.count())
    }

    fn problems(&self, name: &str) -> Vec<Problem> {
        let report = self.store.verify(name, &mut Silent).unwrap();
        report.layers.into_iter().flat_map(|layer| layer.problems).collect()
    }
}

fn directory_format() -> BuildOptions {
    BuildOptions { format: Some(Format::Directory), ..BuildOptions::default() }
}

#[test]
fn a_stack_is_built_once_and_holds_each_file_once() {
    let bench = Bench::new("");
    assert!(matches!(bench.store.image("top"), Err(RootfsError::NotBuilt { .. })));
    let built = bench.build("top");
    assert_eq!(built.layers, ["base", "top"]);
    let image = bench.store.image("top").unwrap();
    assert_eq!(image.layers.len(), 2);
    assert!(image.layers[0].path.join("usr/bin/sh").exists() && image.layers[0].path.join("work").is_dir());
    assert!(image.layers[1].path.join("usr/bin/top").exists() && !image.layers[1].path.join("usr/bin/sh").exists());
    assert_eq!(bench.store.layer_manifests("top").unwrap()[0].packages[0].name, "base");

    assert_eq!(bench.build("top").layers, [""; 0]);
    assert!(bench.store.is_current(&bench.recipes, "top").unwrap());
    assert_eq!(bench.build("base").layers, [""; 0], "its layer is shared");
    let again = bench.try_build("top", &BuildOptions { force: true, ..directory_format() }).unwrap();
    assert_eq!((again.layers, again.image.layers), (vec!["top".to_owned()], image.layers));
    assert_eq!(bench.left_in_tmp(), 0);
}

#[test]
fn an_erofs_build_is_reproducible_and_a_flipped_byte_is_found() {
    let bench = Bench::new("");
    if bench.tools.find("mkfs.erofs").is_none() {
        eprintln!("no mkfs.erofs here: nothing tested");
        return;
    }
    let erofs = BuildOptions { format: Some(Format::Erofs), ..BuildOptions::default() };
    let first = bench.try_build("base", &erofs).unwrap().image.layers;
    let again = bench.try_build("base", &BuildOptions { force: true, ..erofs.clone() }).unwrap().image.layers;
    assert_eq!(first, again);
    assert_eq!(bench.problems("base"), []);

    let path = &first[0].path;
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, &bytes).unwrap();
    assert!(matches!(bench.problems("base")[..], [Problem::Digest { .. }]));

    fs::write(path, &bytes[1..]).unwrap();
    let error = bench.store.image("base").unwrap_err();
    assert!(matches!(error, RootfsError::Damaged { .. }), "{error}");
    assert_eq!(error.hint().unwrap(), "run `sandboxd rootfs build --force base`");
    // An ordinary build mends what a size shows.
    assert_eq!(bench.try_build("base", &erofs).unwrap().layers, ["base"]);
    assert_eq!(bench.problems("base"), []);
}

#[test]
fn verify_names_what_was_done_to_a_directory() {
    let bench = Bench::new("");
    let image = bench.build("base").image;
    assert_eq!(bench.problems("base"), []);
    let tree = &image.layers[0].path;
    fs::write(tree.join("usr/bin/sh"), "other").unwrap();
    fs::write(tree.join("usr/bin/added"), "x").unwrap();
    fs::set_permissions(tree.join("usr/bin/added"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::remove_file(tree.join("etc/hosts")).unwrap();
    let problems = bench.problems("base");
    assert!(matches!(problems[0], Problem::Digest { .. }));
    let named: Vec<String> = problems[1..].iter().map(Problem::to_string).collect();
    let expected = [
        "/etc/hosts is missing",
        "/usr/bin/sh was changed",
        "/usr/bin/added was added",
        "/usr/bin/added (set-user-id) must not be there",
    ];
    assert_eq!(named, expected);
}

#[test]
fn half_built_and_damaged_images_are_told_apart_and_never_used() {
    let bench = Bench::new("");
    let image = bench.build("top").image;
    let manifest = bench.store_file("images/top.json");
    let text = fs::read_to_string(&manifest).unwrap();
    for garbage in [
        "",
        "{",
        "{\"format_version\":1}",
        &text.replace("\"top\"", "\"toq\""),
        &text.replace("version\": 1", "version\": 9"),
    ] {
        fs::write(&manifest, garbage).unwrap();
        assert!(matches!(bench.store.image("top"), Err(RootfsError::Damaged { .. })), "{garbage}");
        assert!(matches!(bench.store.list().unwrap()[0].state, State::Broken(_)));
    }
    fs::write(&manifest, &text).unwrap();
    fs::set_permissions(&image.layers[1].path, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(bench.store.image("top"), Err(RootfsError::Damaged { .. })));
    fs::rename(&image.layers[1].path, bench.store_file("elsewhere")).unwrap();
    assert!(matches!(bench.store.image("top"), Err(RootfsError::HalfBuilt { .. })));
    assert_eq!(bench.build("top").layers, ["top"]);
    for name in ["../top", "/etc/passwd", "", "a/b"] {
        assert!(bench.store.image(name).is_err(), "{name}");
    }
}

#[test]
fn removing_an_image_keeps_the_layers_of_others() {
    let bench = Bench::new("");
    bench.build("base");
    bench.build("top");
    let removed = bench.store.remove("base").unwrap();
    assert_eq!(removed.layers, [""; 0]);
    let removed = bench.store.remove("top").unwrap();
    assert_eq!(removed.layers.len(), 2);
    assert_eq!(bench.layer_files(), 0);
    assert!(matches!(bench.store.remove("top"), Err(RootfsError::NotBuilt { .. })));
    assert!(matches!(bench.store.remove("host"), Err(RootfsError::HostImage)));
}

#[test]
fn versions_stay_while_the_layers_do() {
    let bench = Bench::new("");
    bench.build("base");
    let versions = BTreeMap::from([("bash".to_owned(), "5.2".to_owned())]);
    bench.store.set_versions("base", versions.clone()).unwrap();
    assert_eq!(bench.store.image("base").unwrap().versions, versions);
    bench.try_build("base", &BuildOptions { force: true, ..directory_format() }).unwrap();
    assert_eq!(bench.store.image("base").unwrap().versions, versions);
}

#[test]
fn a_failed_build_says_what_the_tool_said_and_leaves_nothing() {
    let bench = Bench::new("echo 'E: Could not resolve the mirror' >&2; exit 25");
    let error = bench.try_build("base", &directory_format()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("mmdebstrap failed (exit status: 25)") && text.contains("Could not resolve"), "{text}");
    assert!(error.hint().unwrap().contains("network"), "{:?}", error.hint());
    assert_eq!((bench.left_in_tmp(), bench.layer_files()), (0, 0));

    fs::remove_file(bench.directory.path().join("bin/mmdebstrap")).unwrap();
    let tools = SystemTools { search: vec![bench.directory.path().join("bin")], contained: false, needs_root: false };
    let error = build(&bench.store, &bench.recipes, "base", &directory_format(), &tools, &mut Silent).unwrap_err();
    assert_eq!(error.to_string(), "mmdebstrap: not found");
    assert_eq!(error.hint().unwrap(), "apt-get install mmdebstrap");
}

#[test]
fn a_tree_with_forbidden_files_is_refused_with_their_names() {
    let bench = Bench::new(
        "chmod 4755 \"$tree/usr/bin/sh\"; mkdir -m 1777 \"$tree/usr/lib/open\"; mkfifo \"$tree/usr/lib/fifo\"; mkdir \"$tree/usr/lib/full\"; touch \"$tree/usr/lib/open/x\"",
    );
    let error = bench.try_build("base", &directory_format()).unwrap_err();
    let text = error.to_string();
    for words in ["/usr/bin/sh (set-user-id)", "/usr/lib/open (world-writable)", "/usr/lib/fifo (fifo)"] {
        assert!(text.contains(words), "{text}");
    }
    assert!(matches!(bench.store.image("base"), Err(RootfsError::NotBuilt { .. })));
}

#[test]
fn too_little_space_is_said_before_the_work() {
    let bench = Bench::new("exit 1");
    let recipe = BASE.replace("build_space_mb = 1", "build_space_mb = 1000000000");
    fs::write(bench.directory.path().join("recipes/base.toml"), recipe).unwrap();
    let recipes = Recipes::load(Some(&bench.directory.path().join("recipes"))).unwrap();
    let result = build(&bench.store, &recipes, "base", &directory_format(), &bench.tools, &mut Silent);
    assert!(matches!(result, Err(RootfsError::NoSpace { .. })), "{result:?}");
}

#[test]
fn a_second_builder_is_told_who_holds_the_lock() {
    let bench = Bench::new("");
    bench.build("base");
    let lock =
        StoreLock::take(&bench.store_file("lock"), "rootfs build node", Contention::Fail, &mut |_| Ok(())).unwrap();
    let options = BuildOptions { fail_if_locked: true, ..directory_format() };
    let error = bench.try_build("top", &options).unwrap_err();
    assert!(error.to_string().contains(&format!("process {} (rootfs build node)", std::process::id())), "{error}");
    // What is built needs no lock, and another one waits for it.
    assert!(bench.store.image("base").is_ok());
    let waiter = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| bench.build("top"));
        std::thread::sleep(Duration::from_millis(150));
        drop(lock);
        waiter.join().unwrap()
    });
    assert_eq!(waiter.layers, ["top"]);
}

#[test]
fn leftovers_of_dead_builds_are_swept_and_whole_layers_are_not() {
    let bench = Bench::new("");
    bench.build("base");
    fs::create_dir_all(bench.store_file("tmp/1-base/tree/usr")).unwrap();
    fs::write(bench.store_file("layers/top-0123456789ab.erofs"), "half").unwrap();
    fs::write(bench.store_file("layers/top-0123456789ab.list"), "half").unwrap();
    let before = bench.layer_files();
    bench.build("top");
    assert_eq!(bench.left_in_tmp(), 0);
    assert_eq!(bench.layer_files(), before - 2 + 3);
    assert!(bench.store.image("base").is_ok());
}

/// Not a test by itself: the process that the two tests below end in the middle of a build.
#[test]
fn victim() {
    let Some(directory) = std::env::var_os("ROOTFS_TEST_VICTIM") else {
        return;
    };
    let directory = tempfile::Builder::new().disable_cleanup(true).tempdir_in(directory).unwrap();
    println!("\n{}", directory.path().display());
    let bench = Bench::at(directory, "echo $$ > \"$tree/pid\"; exec sleep 1000");
    println!("\nresult {:?}", bench.try_build("base", &directory_format()).map(|_| ()));
}

/// Starts a victim, waits until its tool is at work, sends the signal, and returns where it was, what it said at
/// last, and its tool's process.
fn end_a_build_by(signal: Signal) -> (tempfile::TempDir, PathBuf, String, i32) {
    let parent = tempfile::tempdir().unwrap();
    // The harness runs a test in a thread of its own: all of the victim's threads inherit this mask, so that the
    // signal waits for the builder instead of ending the process.
    let held = SigSet::from_iter([Signal::SIGINT]);
    let former = SigSet::thread_get_mask().unwrap();
    held.thread_block().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "rootfs::build_tests::victim", "--nocapture", "--test-threads=1"])
        .env("ROOTFS_TEST_VICTIM", parent.path())
        .stdout(Stdio::piped())
        .spawn();
    former.thread_set_mask().unwrap();
    let mut child = child.unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let at = lines.find(|line| line.starts_with('/')).map(PathBuf::from).unwrap();
    let tool = wait_for_tool(&at);
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
    let said = lines.find(|line| line.starts_with("result")).unwrap_or_default();
    child.wait().unwrap();
    (parent, at, said, tool)
}

fn wait_for_tool(at: &Path) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let works = fs::read_dir(at.join("store/tmp")).into_iter().flatten().flatten();
        let pid =
            works.filter_map(|work| fs::read_to_string(work.path().join("tree/pid")).ok()?.trim().parse().ok()).next();
        if let Some(pid) = pid {
            return pid;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the fake tool did not start");
}

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

#[test]
fn an_interrupted_build_kills_its_tools_and_leaves_nothing() {
    let (_parent, at, said, tool) = end_a_build_by(Signal::SIGINT);
    assert!(said.contains("Interrupted"), "{said}");
    assert!(!is_alive(tool));
    assert_eq!(fs::read_dir(at.join("store/tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(at.join("store/layers")).unwrap().count(), 0);
}

#[test]
fn a_killed_build_leaves_nothing_that_is_used_and_the_next_one_sweeps() {
    let (_parent, at, _, tool) = end_a_build_by(Signal::SIGKILL);
    // Fake tools run without the pid namespace that ends the real ones.
    let _ = kill(Pid::from_raw(tool), Signal::SIGKILL);
    let store = Store::open(&at.join("store")).unwrap();
    assert!(matches!(store.image("base"), Err(RootfsError::NotBuilt { .. })));
    assert_eq!(fs::read_dir(at.join("store/tmp")).unwrap().count(), 1);

    let bench = Bench::new("");
    build(&store, &bench.recipes, "base", &directory_format(), &bench.tools, &mut Silent).unwrap();
    assert_eq!(fs::read_dir(at.join("store/tmp")).unwrap().count(), 0);
    assert!(store.image("base").is_ok());
}

/// `pip3 download … --dest=DIRECTORY WHEEL==1.0`, and `python3 -m zipfile -e WHEEL DIRECTORY`.
const PIP: &str = "#!/bin/sh\nfor word; do case $word in --dest=*) echo wheel > ${word#--dest=}/w.whl ;; esac; done\n";
const UNZIP: &str =
    "#!/bin/sh\nmkdir -p $5/pack/bin\necho 1 > $5/pack/bin/tool\nchmod 700 $5/pack/bin/tool\necho 2 > $5/pack/text\n";
/// `chroot TREE /mark` counts how often it was called there.
const CHROOT: &str = "#!/bin/sh\necho once more >> $1/usr/lib/$2\n";

fn with_tools(bench: &Bench) {
    for (name, script) in [("pip3", PIP), ("python3", UNZIP), ("chroot", CHROOT)] {
        let path = bench.directory.path().join("bin").join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn wheel(digest: &str) -> String {
    let arch = std::env::consts::ARCH;
    format!(
        "{TOP}[[layer.pypi]]\npackage = 'w'\nversion = '1.0'\nintegrity = 'sha256:{digest}'\narchitecture = '{arch}'\n\
         files = [{{ from = 'pack', to = 'usr/lib/pack' }}]\n\
         [[layer.file]]\npath = 'usr/lib/note'\nmode = 0o755\ncontent = 'text'\nreason = 'r'\n"
    )
}

#[test]
fn wheels_and_texts_get_into_the_layer_with_their_modes_and_a_wrong_digest_is_refused() {
    let mut bench = Bench::new("");
    with_tools(&bench);
    let recipe = bench.directory.path().join("recipes/top.toml");
    fs::write(&recipe, wheel("0000")).unwrap();
    bench.recipes = Recipes::load(recipe.parent()).unwrap();
    let error = bench.try_build("top", &directory_format()).unwrap_err();
    let RootfsError::Integrity { what, got, .. } = &error else { panic!("{error}") };
    assert_eq!(what, "w@1.0");
    assert!(bench.store.image("top").is_err() && bench.left_in_tmp() == 0);

    fs::write(&recipe, wheel(got.trim_start_matches("sha256:"))).unwrap();
    bench.recipes = Recipes::load(recipe.parent()).unwrap();
    let layer = bench.build("top").image.layers[1].path.join("usr/lib");
    let mode = |path: &str| layer.join(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        [mode("pack/bin/tool"), mode("pack/text"), mode("pack/bin"), mode("note")],
        [0o755, 0o644, 0o755, 0o755]
    );
    let packages = &bench.store.layer_manifests("top").unwrap()[1].packages;
    assert_eq!(packages.last().map(|package| (&*package.source, &*package.name)), Some(("pypi", "w")));
}

#[test]
fn a_command_marked_once_is_not_run_for_the_layers_above() {
    let mut bench = Bench::new("");
    with_tools(&bench);
    let recipes = bench.directory.path().join("recipes");
    let command =
        |name: &str, once: bool| format!("[[layer.command]]\nrun = ['{name}']\nreason = 'r'\nonce = {once}\n");
    fs::write(recipes.join("base.toml"), format!("{BASE}{}{}", command("first", true), command("always", false)))
        .unwrap();
    fs::write(recipes.join("top.toml"), format!("{TOP}{}", command("first", true))).unwrap();
    bench.recipes = Recipes::load(Some(&recipes)).unwrap();
    let layers = bench.build("top").image.layers;
    let ran = |layer: usize, name: &str| fs::read_to_string(layers[layer].path.join("usr/lib").join(name)).ok();
    let times = |count: usize| Some("once more\n".repeat(count));
    assert_eq!([ran(0, "first"), ran(0, "always")], [times(1), times(1)]);
    // What came out the same as below is not in the layer above; `first` was run there for its own recipe alone.
    assert_eq!([ran(1, "first"), ran(1, "always")], [None, None]);
    fs::write(recipes.join("top.toml"), format!("{TOP}{}", command("always", false))).unwrap();
    bench.recipes = Recipes::load(Some(&recipes)).unwrap();
    let layers = bench.build("top").image.layers;
    assert_eq!(fs::read_to_string(layers[1].path.join("usr/lib/always")).ok(), times(2));
    assert!(!layers[1].path.join("usr/lib/first").exists());
}
