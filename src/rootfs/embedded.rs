//! The recipes that come with the program: those of `rootfs/`, embedded. `host` is read by `host::HostRecipe`.

macro_rules! recipes {
    ($($name:literal)*) => {
        /// Name and text of every recipe.
        pub(super) const EMBEDDED: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../rootfs/", $name, ".toml")))),*];
    };
}

recipes! { "base" "bun" "clojure" "cpp" "csharp" "dart" "deno" "dotnet" "elixir" "gcc" "go" "haskell" "interpreters" "java" "kotlin" "lua" "native" "node" "ocaml" "perl" "php" "python" "r" "ruby" "rust" "scala" "swift" "typescript" }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_in_the_directory_is_embedded() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("rootfs");
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
            .filter(|name| name != "host")
            .collect();
        names.sort();
        assert_eq!(EMBEDDED.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
    }
}
