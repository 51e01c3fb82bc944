//! The synthetic /etc of every image, and the directories a cell mounts upon. Nothing of the building machine's
//! own /etc is in an image: not its users, its hosts or its name servers.

/// Mount points and places for files, empty and not writable in the image: a cell mounts its own upon them.
pub const DIRECTORIES: &[&str] = &["proc", "dev", "tmp", "work", "etc", "run", "var"];

/// Merged-usr: the old names of what is under /usr.
pub const USR_LINKS: &[(&str, &str)] =
    &[("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];

/// Path, content. `sandbox` is whom a payload is, `init` who reaps it.
pub const FILES: &[(&str, &[u8])] = &[
    (
        "etc/passwd",
        b"root:x:0:0:root:/work:/bin/bash\n\
          init:x:999:999::/:/bin/false\n\
          sandbox:x:1000:1000::/work:/bin/bash\n\
          nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    ),
    ("etc/group", b"root:x:0:\ninit:x:999:\nsandbox:x:1000:\nnogroup:x:65534:\n"),
    ("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/hostname", b"sandbox\n"),
    ("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n"),
];

/// What `tzfile(5)` says UTC is; images without the time zone database have this one zone.
pub const UTC: &[u8] =
    b"TZif2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\0\0\0\0\0\0UTC\0\
TZif2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\0\0\0\0\0\0UTC\0\nUTC0\n";

pub const UTC_PATH: &str = "usr/share/zoneinfo/UTC";

/// Path, target.
pub const LINKS: &[(&str, &str)] = &[
    ("etc/localtime", "/usr/share/zoneinfo/UTC"),
    // Programs that ask for the larger temporary directory get the only one.
    ("var/tmp", "/tmp"),
];

#[cfg(test)]
mod tests {
    #[test]
    fn utc_is_what_the_time_zone_database_says() {
        assert_eq!(super::UTC.len(), 114);
        if let Ok(installed) = std::fs::read("/usr/share/zoneinfo/UTC") {
            assert_eq!(super::UTC, installed);
        }
    }
}
