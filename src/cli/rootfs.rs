#[derive(clap::Subcommand)]
pub enum RootfsCommand {
    List,
}
pub fn main(_: &crate::config::Config, _: RootfsCommand) -> anyhow::Result<std::process::ExitCode> {
    Ok(0.into())
}
