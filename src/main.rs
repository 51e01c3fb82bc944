//! The program `sandboxd`. Everything is in the library; this only enters it.

fn main() -> std::process::ExitCode {
    sandboxd::cli::main()
}
