//! The languages that come with the program: the profiles of `sandbox-profiles/`, embedded.

/// A profile's file name, as errors show it, and its text.
type Embedded = (&'static str, &'static str);

macro_rules! profiles {
    ($($name:literal)*) => {
        /// Every profile of `sandbox-profiles/`, by name.
        pub const EMBEDDED_PROFILES: &[Embedded] = &[$((
            concat!("sandbox-profiles/", $name, ".toml"),
            include_str!(concat!("../../sandbox-profiles/", $name, ".toml")),
        )),*];
    };
}

profiles! { "assembly" "awk" "bash" "bun" "c" "clojure" "cpp" "csharp" "d" "dart" "deno" "dotnet" "elixir" "erlang" "fortran" "go" "haskell" "java" "javascript" "kotlin" "lisp" "lua" "ocaml" "pascal" "perl" "php" "prolog" "python" "r" "ruby" "rust" "scala" "scheme" "sqlite" "swift" "typescript" }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_in_the_directory_is_embedded() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sandbox-profiles");
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| format!("sandbox-profiles/{}", entry.unwrap().file_name().to_string_lossy()))
            .filter(|file| file.ends_with(".toml") && !file.ends_with("seccomp.toml"))
            .collect();
        files.sort();
        assert_eq!(EMBEDDED_PROFILES.iter().map(|(file, _)| *file).collect::<Vec<_>>(), files);
    }
}
