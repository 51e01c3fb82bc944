//! Real builds of root filesystems: root, the network and a minute are needed, so `make test-root` asks for them by
//! SANDBOXD_TEST_ROOTFS=1.

use std::process::Command;

use sandboxd::rootfs::{BuildOptions, Format, Recipes, Report, Store, SystemTools, build, progress};

fn is_asked_for() -> bool {
    let asked = std::env::var_os("SANDBOXD_TEST_ROOTFS").is_some();
    if !asked {
        eprintln!("SANDBOXD_TEST_ROOTFS is not set: nothing tested");
    }
    asked
}

#[test]
fn base_is_built_twice_the_same_and_its_shell_runs() {
    if !is_asked_for() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let recipes = Recipes::embedded().unwrap();
    let mut digests = Vec::new();
    for format in [Format::Directory, Format::Erofs, Format::Erofs] {
        let options = BuildOptions { force: true, format: Some(format), ..BuildOptions::default() };
        let built =
            build(&store, &recipes, "base", &options, &SystemTools::default(), &mut *progress::for_stderr()).unwrap();
        let layer = &built.image.layers[0];
        digests.push(layer.digest.clone());
        let report: Report = store.verify("base", &mut progress::Silent).unwrap();
        assert!(report.is_sound(), "{report:#?}");
        if format == Format::Directory {
            let script = "test $(echo 2^10 | bc) = 1024 && awk 'BEGIN{print 1}' | grep -q 1 && id -un 1000";
            let output = Command::new("/usr/sbin/chroot")
                .arg(&layer.path)
                .args(["/bin/bash", "-c", script])
                .env_clear()
                .env("PATH", "/usr/bin")
                .output()
                .unwrap();
            assert_eq!(
                (String::from_utf8_lossy(&output.stdout).trim(), output.status.code()),
                ("sandbox", Some(0)),
                "{output:?}"
            );
        }
    }
    assert_eq!(digests[1], digests[2], "the same packages give the same layer");
    assert_eq!(std::fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
}
