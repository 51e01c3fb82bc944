pub fn main(_: &crate::config::Config, _: &super::CheckArguments) -> anyhow::Result<std::process::ExitCode> {
    Ok(0.into())
}
