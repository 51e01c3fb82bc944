//! `sandboxd rootfs`: the root filesystem images, from the builder's side.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use super::{EXIT_SANDBOX_FAILED, say_error, say_hint, say_warning};
use crate::config::Config;
use crate::machine::Machine;
use crate::plan::HOST_IMAGE;
use crate::plan::{Surroundings, plan_version};
use crate::rootfs::{BuildOptions, Format, Image, Recipes, RootfsError, Store, SystemTools, build, progress};
use crate::runner;
use crate::words::profile::Profiles;
use crate::words::suggest::nearest;

/// An image is not as it was built.
const EXIT_UNSOUND: u8 = 1;
/// As a shell says it of what Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

#[derive(Subcommand)]
pub enum RootfsCommand {
    /// Build images that are missing or out of date; needs root, mmdebstrap and the network
    Build(BuildArguments),
    /// List the images: state, size, layers, versions
    List(ListArguments),
    /// Read every byte of images again and say what is no longer as it was built
    Verify(VerifyArguments),
    /// Remove images, and the layers that no other image stands on
    Remove(RemoveArguments),
}

#[derive(Args)]
#[command(
    after_help = "A build that is interrupted (Ctrl-C: exit code 130) leaves nothing half-made behind. What is up to date is \
                  not built again.\n\nExamples:\n  sandboxd rootfs build\n  sandboxd rootfs build --force python"
)]
pub struct BuildArguments {
    /// The images [default: those that the language profiles need, without the optional ones]
    #[arg(value_name = "NAME", conflicts_with = "all")]
    names: Vec<String>,
    /// Every image there is a recipe for
    #[arg(long)]
    all: bool,
    /// Build again though nothing has changed, for newer packages
    #[arg(long)]
    force: bool,
    /// How layers are stored [default: erofs where tools and kernel have it]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<FormatFlag>,
    /// Build without namespaces, where none may be made: in the build of a container, which is thrown away
    #[arg(long)]
    uncontained: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatFlag {
    /// One compressed read-only file a layer, mounted
    Erofs,
    /// A plain tree, for kernels without erofs and for ordinary users
    Directory,
}

#[derive(Args)]
pub struct ListArguments {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = "Exit code: 0 when all are as they were built, 1 when one is not.")]
pub struct VerifyArguments {
    /// The images [default: all that are built]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Args)]
pub struct RemoveArguments {
    /// The images
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

pub fn main(config: &Config, command: RootfsCommand) -> anyhow::Result<ExitCode> {
    let done = match command {
        RootfsCommand::Build(arguments) => build_images(config, &arguments),
        RootfsCommand::List(arguments) => list(config, &arguments),
        RootfsCommand::Verify(arguments) => verify(config, &arguments),
        RootfsCommand::Remove(arguments) => remove(config, &arguments),
    };
    done.or_else(|error| {
        let Some(known) = error.downcast_ref::<RootfsError>() else { return Err(error) };
        let code = if matches!(known, RootfsError::Interrupted) { EXIT_INTERRUPTED } else { EXIT_SANDBOX_FAILED };
        tell(&error);
        Ok(ExitCode::from(code))
    })
}

/// An error of this module's subject, with its remedy.
fn tell(error: &anyhow::Error) {
    say_error(error);
    if let Some(hint) = error.downcast_ref::<RootfsError>().and_then(RootfsError::hint) {
        say_hint(&hint);
    }
}

fn recipes(config: &Config) -> Result<Recipes, RootfsError> {
    Recipes::load(Some(config.recipes_dir.as_path()).filter(|directory| directory.is_dir()))
}

fn profiles(config: &Config) -> Profiles {
    let (profiles, problems) = config.profiles();
    for problem in &problems {
        say_warning(&format!("profile left out: {problem}"));
    }
    profiles
}

/// On the main thread and before there are others: the builder holds back Ctrl-C, and cells are cloned.
fn build_images(config: &Config, arguments: &BuildArguments) -> anyhow::Result<ExitCode> {
    let recipes = recipes(config)?;
    let profiles = profiles(config);
    let names: Vec<String> = match (arguments.names.as_slice(), arguments.all) {
        (_, true) => recipes.names().map(str::to_owned).collect(),
        ([], false) => needed(&profiles, &recipes),
        (names, false) => names.to_vec(),
    };
    // A slip in the last name should not show after the first has been built.
    for name in &names {
        recipes.get(name)?;
    }
    let store = Store::open(&config.rootfs_dir)?;
    let options = BuildOptions {
        force: arguments.force,
        format: arguments.format.map(|format| match format {
            FormatFlag::Erofs => Format::Erofs,
            FormatFlag::Directory => Format::Directory,
        }),
        ..BuildOptions::default()
    };
    let tools = if arguments.uncontained { SystemTools::uncontained() } else { SystemTools::default() };
    let mut stale = Vec::new();
    for name in &names {
        let mut progress = progress::for_stderr();
        let built = build(&store, &recipes, name, &options, &tools, &mut *progress);
        drop(progress);
        let built = built.with_context(|| format!("failed to build the image {name}"))?;
        let size = megabytes(size_of(&built.image));
        if built.layers.is_empty() {
            println!("{name}: up to date ({size})");
        } else {
            let seconds = built.elapsed.as_secs_f64();
            println!("{name}: built {} in {seconds:.1} s ({size} in all)", built.layers.join(", "));
        }
        if profiles.iter().any(|profile| profile.rootfs == *name && !built.image.versions.contains_key(&profile.name)) {
            stale.push(name.clone());
        }
    }
    // Where there are no namespaces, there is no cell to ask in: the service asks when it starts.
    if !stale.is_empty() && !arguments.uncontained {
        record_versions(config, &store, &profiles, &stale);
    }
    Ok(ExitCode::SUCCESS)
}

/// The images that the profiles name, each once, without those whose recipe says that they are optional.
fn needed(profiles: &Profiles, recipes: &Recipes) -> Vec<String> {
    let mut names: Vec<String> = profiles.iter().map(|profile| profile.rootfs.clone()).collect();
    names.retain(|name| name != HOST_IMAGE && !recipes.get(name).is_ok_and(|recipe| recipe.optional));
    names.sort();
    names.dedup();
    names
}

/// Asks the toolchains in freshly built images for their versions, each in a cell. An image whose toolchain does not
/// answer is still built: that is said, and `languages` and runs ask again.
fn record_versions(config: &Config, store: &Store, profiles: &Profiles, names: &[String]) {
    let asked = Machine::look(config).map_err(anyhow::Error::from).and_then(|mut machine| {
        let mut supervisor = machine.supervisor()?;
        let runtime = runner::event_loop()?;
        for name in names {
            let mut versions = BTreeMap::new();
            machine.stage(&mut supervisor, name)?;
            for profile in profiles.iter().filter(|profile| profile.rootfs == *name) {
                let around = Surroundings { profiles, host: &machine.host, rootfs: name, left_out: &[] };
                let plan = plan_version(profile, &around);
                match runtime.block_on(crate::machine::ask_version(&mut supervisor, &plan)) {
                    Some(version) => {
                        println!("{name}: {} {version}", profile.name);
                        versions.insert(profile.name.clone(), version);
                    }
                    None => say_warning(&format!("{name}: the toolchain of {} did not tell its version", profile.name)),
                }
            }
            store.set_versions(name, versions)?;
        }
        for error in supervisor.close() {
            say_warning(&format!("left over: {error}"));
        }
        Ok(())
    });
    if let Err(error) = asked {
        say_warning(&format!("the versions of the toolchains are not known: {error:#}"));
    }
}

/// One image as `list` tells it.
#[derive(serde::Serialize)]
struct Row {
    name: String,
    /// `built`, `outdated`, `missing` or `damaged`.
    state: &'static str,
    size_bytes: u64,
    layers: Vec<String>,
    versions: BTreeMap<String, String>,
    /// Seconds since 1970.
    built_at: Option<u64>,
    /// What is wrong, or what it is for.
    note: String,
}

fn list(config: &Config, arguments: &ListArguments) -> anyhow::Result<ExitCode> {
    let recipes = recipes(config)?;
    let store = Store::open(&config.rootfs_dir)?;
    let mut names: Vec<String> = store.list()?.into_iter().map(|summary| summary.name).collect();
    names.extend(recipes.names().map(str::to_owned));
    names.sort();
    names.dedup();
    let mut rows = vec![Row {
        name: HOST_IMAGE.to_owned(),
        state: "built",
        size_bytes: 0,
        layers: Vec::new(),
        versions: BTreeMap::new(),
        built_at: None,
        note: "this machine's own programs, never built".to_owned(),
    }];
    rows.extend(names.iter().map(|name| row(&store, &recipes, name)));
    let text = match arguments.json {
        true => format!("{}\n", serde_json::to_string_pretty(&rows)?),
        false => table(&rows),
    };
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn row(store: &Store, recipes: &Recipes, name: &str) -> Row {
    let description = recipes.get(name).map(|recipe| recipe.description.clone()).unwrap_or_default();
    let empty = |state, note| Row {
        name: name.to_owned(),
        state,
        size_bytes: 0,
        layers: Vec::new(),
        versions: BTreeMap::new(),
        built_at: None,
        note,
    };
    match store.image(name) {
        Err(RootfsError::NotBuilt { .. }) => empty("missing", description),
        Err(error) => empty("damaged", error.to_string()),
        Ok(image) => {
            // Of an image without a recipe nothing says that it should be otherwise.
            let current = store.is_current(recipes, name).unwrap_or(true);
            Row {
                state: if current { "built" } else { "outdated" },
                size_bytes: size_of(&image),
                layers: image.layers.iter().map(|layer| layer.name.clone()).collect(),
                versions: image.versions,
                built_at: Some(image.built_at),
                ..empty("", description)
            }
        }
    }
}

fn table(rows: &[Row]) -> String {
    use anstyle::{AnsiColor, Style};
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(5);
    let mut text =
        format!("{:width$}  {:8}  {:>7}  {:16}  {:17}  versions\n", "image", "state", "size", "built (UTC)", "layers");
    for row in rows {
        let color = match row.state {
            "built" => AnsiColor::Green,
            "damaged" => AnsiColor::Red,
            _ => AnsiColor::Yellow,
        };
        let style = Style::new().fg_color(Some(color.into()));
        let size = if row.size_bytes == 0 { "-".to_owned() } else { megabytes(row.size_bytes) };
        let built = row.built_at.map_or_else(|| "-".to_owned(), date);
        let layers = if row.layers.is_empty() { "-".to_owned() } else { row.layers.join(" + ") };
        let versions: Vec<_> = row.versions.iter().map(|(language, version)| format!("{language} {version}")).collect();
        let last = if versions.is_empty() { row.note.clone() } else { versions.join(", ") };
        text += &format!(
            "{:width$}  {style}{:8}{style:#}  {size:>7}  {built:16}  {layers:17}  {last}\n",
            row.name, row.state
        );
    }
    if rows.iter().any(|row| row.state != "built") && std::io::stdout().is_terminal() {
        text += "\n`sandboxd rootfs build` builds what the languages need, `--all` everything\n";
    }
    text
}

/// Reports every image asked for, also after one that is damaged.
fn verify(config: &Config, arguments: &VerifyArguments) -> anyhow::Result<ExitCode> {
    let store = Store::open(&config.rootfs_dir)?;
    let mut names = arguments.names.clone();
    if names.is_empty() {
        names = store.list()?.into_iter().map(|summary| summary.name).collect();
    }
    check_names(config, &store, &names)?;
    if names.is_empty() {
        println!("no image is built: nothing to verify");
    }
    let mut sound = true;
    for name in &names {
        let mut progress = progress::for_stderr();
        let report = store.verify(name, &mut *progress);
        drop(progress);
        match report {
            Err(error) => {
                sound = false;
                tell(&error.into());
            }
            Ok(report) => {
                sound &= report.is_sound();
                print_report(&report);
            }
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNSOUND) })
}

fn print_report(report: &crate::rootfs::Report) {
    /// A layer that is all wrong need not fill the screen.
    const PROBLEMS_SHOWN_MAX: usize = 20;
    for layer in &report.layers {
        let name = format!("{}: layer {} ({})", report.image, layer.name, megabytes(layer.size_bytes));
        if layer.problems.is_empty() {
            println!("{name}: OK");
            continue;
        }
        println!("{name}: {} problems", layer.problems.len());
        for problem in layer.problems.iter().take(PROBLEMS_SHOWN_MAX) {
            println!("  {problem}");
        }
        if layer.problems.len() > PROBLEMS_SHOWN_MAX {
            println!("  and {} more", layer.problems.len() - PROBLEMS_SHOWN_MAX);
        }
    }
    if !report.is_sound() {
        say_hint(&format!("run `sandboxd rootfs build --force {}`", report.image));
    }
}

/// An unknown name is refused before anything is done for the others.
fn check_names(config: &Config, store: &Store, names: &[String]) -> anyhow::Result<()> {
    let built: Vec<String> = store.list()?.into_iter().map(|summary| summary.name).collect();
    let recipes = recipes(config)?;
    let known: Vec<&str> = built.iter().map(String::as_str).chain(recipes.names()).collect();
    for name in names {
        if name == HOST_IMAGE {
            return Err(RootfsError::HostImage.into());
        }
        if !known.contains(&name.as_str()) {
            let nearest = nearest(name, known.iter().copied()).map(str::to_owned);
            return Err(RootfsError::UnknownImage { name: name.clone(), nearest }.into());
        }
    }
    Ok(())
}

fn remove(config: &Config, arguments: &RemoveArguments) -> anyhow::Result<ExitCode> {
    let store = Store::open(&config.rootfs_dir)?;
    check_names(config, &store, &arguments.names)?;
    for name in &arguments.names {
        let removed = store.remove(name)?;
        let freed = megabytes(removed.freed_bytes);
        match removed.layers.as_slice() {
            [] => println!("{name}: removed; its layers stay, other images stand on them"),
            layers => println!("{name}: removed, with {} freed {freed}", layers.join(", ")),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn size_of(image: &Image) -> u64 {
    image.layers.iter().map(|layer| layer.size_bytes).sum()
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

/// `2026-01-31 13:05` of seconds since 1970 (days to civil date after Howard Hinnant's algorithm).
fn date(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", time / 3600, time % 3600 / 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_civil() {
        assert_eq!(super::date(0), "1970-01-01 00:00");
        assert_eq!(super::date(951_782_400), "2000-02-29 00:00");
        assert_eq!(super::date(1_735_689_599), "2024-12-31 23:59");
    }
}
