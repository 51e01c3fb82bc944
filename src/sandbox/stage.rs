//! The stage: a mount namespace that holds one image, ready to be copied by every cell made from it.
//!
//! A cell's mount namespace is a copy of the one its init was cloned in. The supervisor therefore prepares a tiny one
//! per image, once, and steps into it for the moment of the clone:
//! ```text
//! /          a tmpfs of a few kilobytes, read-only
//! /proc      so that init may mount a proc of its own (the kernel wants a fully visible one beside it)
//! /rootfs    where init puts the image together: the machine's own programs, or an empty mount point
//! /layer0 …  the image's layers, read-only, nosuid, nodev
//! /dev       null, zero, full, random, urandom and links, read-only
//! ```
//! Each cell mounts an overlay of its own over the read-only layers ([`Stage::overlays`]). The page cache is shared all
//! the same, but inodes are not: two cells cannot signal each other by locking a file of the image, and an overlay
//! without an upper layer has no writable state at all. Two more things follow. The copy is small, whatever the host has mounted, so that a clone is cheap; and it never holds
//! the host's file systems, not even for the time before pivot_root. Because the copy belongs to a less privileged
//! user namespace, the kernel locks every read-only, nosuid and nodev flag in it: not even a payload that gained all
//! capabilities of its cell could remount the image writable. The stage is nowhere to be seen on the host and goes
//! with the supervisor.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::sys;
use crate::words::host::Privilege;

/// What an image is made of.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// Read-only layers, bottom first.
    Layers(Vec<LayerSource>),
    /// The machine's own programs under a synthetic root.
    Synthetic(Synthetic),
}

#[derive(Debug, Clone)]
pub enum LayerSource {
    Erofs(PathBuf),
    Directory(PathBuf),
}

/// A root put together from host directories, links and small files; all targets are absolute paths in the image.
#[derive(Debug, Clone, Default)]
pub struct Synthetic {
    pub directories: Vec<PathBuf>,
    pub links: Vec<(PathBuf, PathBuf)>,
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Host path and target.
    pub binds: Vec<(PathBuf, PathBuf)>,
}

/// A stage could not be built: the step, what it acted on, and why.
#[derive(Debug, thiserror::Error)]
#[error("failed to {step} {path:?}")]
pub struct StageError {
    pub step: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: Errno,
}

fn failed<'a>(step: &'static str, path: impl AsRef<Path> + 'a) -> impl FnOnce(Errno) -> StageError + 'a {
    move |source| StageError { step, path: path.as_ref().to_path_buf(), source }
}

fn rustix_failed<'a>(
    step: &'static str,
    path: impl AsRef<Path> + 'a,
) -> impl FnOnce(rustix::io::Errno) -> StageError + 'a {
    move |source| StageError { step, path: path.as_ref().to_path_buf(), source: Errno::from_raw(source.raw_os_error()) }
}

/// A mount namespace ready for clones, and the way back.
pub struct Stage {
    namespace: OwnedFd,
    home: Home,
    overlays: Vec<Overlay>,
}

/// An overlay that init mounts: where, and its read-only lower directories, uppermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    pub target: String,
    pub lowers: Vec<String>,
}

/// The supervisor's own mount namespace and working directory.
struct Home {
    namespace: OwnedFd,
    directory: OwnedFd,
}

impl Home {
    fn open() -> Result<Home, StageError> {
        let namespace = open_path("/proc/self/ns/mnt", OFlag::O_RDONLY)?;
        Ok(Home { namespace, directory: open_path(".", OFlag::O_PATH | OFlag::O_DIRECTORY)? })
    }

    fn return_to(&self) -> Result<(), Errno> {
        setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNS)?;
        nix::unistd::fchdir(self.directory.as_fd())
    }
}

impl Stage {
    /// Builds the stage of an image. The caller's mount namespace is as before, whatever happens.
    ///
    /// # Errors
    /// The mount or file operation that failed, with its path.
    pub fn build(source: &ImageSource, privilege: Privilege, overlay: bool) -> Result<Stage, StageError> {
        let (home, overlays) = (Home::open()?, overlays_of(source, overlay)?);
        let namespace = build_namespace(source, privilege, overlay);
        home.return_to().map_err(failed("return from the stage of", "an image"))?;
        Ok(Stage { namespace: namespace?, home, overlays })
    }

    /// As [`Stage::build`], on a thread that is about to end: it stays in the stage, and other threads do not notice.
    ///
    /// # Errors
    /// As [`Stage::build`].
    pub fn build_aside(source: &ImageSource, privilege: Privilege, overlay: bool) -> Result<Stage, StageError> {
        let (home, overlays) = (Home::open()?, overlays_of(source, overlay)?);
        Ok(Stage { namespace: build_namespace(source, privilege, overlay)?, home, overlays })
    }

    /// The overlays that a cell mounts over the image's read-only parts, in this order.
    pub fn overlays(&self) -> &[Overlay] {
        &self.overlays
    }

    /// Runs `act` inside the stage and returns to the supervisor's own namespace.
    ///
    /// # Errors
    /// setns(2) or `act`'s own.
    pub fn within<T>(&self, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNS)?;
        let result = act();
        self.home.return_to()?;
        result
    }
}

impl Overlay {
    /// The root of an image of `count` layers. Without an upper directory overlayfs wants two lower ones at least.
    fn of_layers(count: usize) -> Overlay {
        let mut lowers: Vec<String> = (0..count).rev().map(|index| format!("/layer{index}")).collect();
        if count == 1 {
            lowers.push("/empty".to_owned());
        }
        Overlay { target: "/rootfs".to_owned(), lowers }
    }

    /// A bound directory of programs and libraries. The few directories of /etc are not worth a mount each.
    ///
    /// # Errors
    /// Whether it is a directory could not be asked: to take that for a no would leave the cell without its overlay.
    fn of_bind((source, target): &(PathBuf, PathBuf)) -> Result<Option<Overlay>, StageError> {
        let worth = !target.starts_with("/etc") && is_directory(source)?;
        let target = format!("/rootfs{}", target.display());
        Ok(worth.then(|| Overlay { lowers: vec![target.clone(), "/empty".to_owned()], target }))
    }

    /// The options of mount(2) that make it.
    pub fn options(&self) -> String {
        format!("lowerdir={}", self.lowers.join(":"))
    }
}

const READ_ONLY: MsFlags = MsFlags::MS_RDONLY.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV);
/// Where the stage is put together; any directory that exists everywhere serves, since nobody else sees it.
const STAGE: &str = "/tmp";

fn overlays_of(source: &ImageSource, overlay: bool) -> Result<Vec<Overlay>, StageError> {
    match source {
        _ if !overlay => Ok(Vec::new()),
        ImageSource::Layers(layers) => Ok(vec![Overlay::of_layers(layers.len())]),
        ImageSource::Synthetic(layout) => {
            layout.binds.iter().filter_map(|bind| Overlay::of_bind(bind).transpose()).collect()
        }
    }
}

/// Whether `path` is a directory, or leads to one.
fn is_directory(path: &Path) -> Result<bool, StageError> {
    std::fs::metadata(path).map(|metadata| metadata.is_dir()).map_err(io_failed("look at", path))
}

/// Moves the calling thread into a new mount namespace and makes the stage there.
fn build_namespace(source: &ImageSource, privilege: Privilege, overlay: bool) -> Result<OwnedFd, StageError> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("unshare the mount namespace of", "the stage"))?;
    build_in_place(source, privilege, overlay)?;
    open_path("/proc/thread-self/ns/mnt", OFlag::O_RDONLY)
}

fn build_in_place(source: &ImageSource, privilege: Privilege, overlay: bool) -> Result<(), StageError> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed("make private", "/"))?;
    // Sources are opened before the stage covers anything.
    let opened = open_sources(source)?;
    let (devices, host_proc) = match privilege {
        Privilege::Root => (Vec::new(), None),
        Privilege::Rootless => {
            let devices = clone_trees(DEVICES.iter().map(|device| Path::new("/dev").join(device.name)))?;
            (devices, Some(clone_tree(Path::new("/proc"))?))
        }
    };
    mount(
        Some("stage"),
        STAGE,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("size=4m,nr_inodes=4k,mode=755"),
    )
    .map_err(failed("mount a tmpfs on", STAGE))?;
    nix::unistd::chdir(STAGE).map_err(failed("enter", STAGE))?;
    for directory in ["proc", "dev", "empty", "rootfs"] {
        make_directory(Path::new(directory))?;
    }
    match &host_proc {
        // A mount of its own: the host's may have parts covered, which would make it useless to the cells.
        None => {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("proc"), "proc", Some("proc"), flags, none).map_err(failed("mount proc on", "proc"))?;
        }
        Some(host_proc) => attach(host_proc, Path::new("proc"))?,
    }
    assemble(source, opened, devices, overlay)?;
    // The only way to what lies below is the old root, which is let go of here.
    nix::unistd::pivot_root(".", ".").map_err(failed("pivot the root into", STAGE))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("detach the old root from", STAGE))?;
    nix::unistd::chdir("/").map_err(failed("enter", "/"))?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | READ_ONLY;
    mount(none, "/", none, flags, none).map_err(failed("make read-only", "/"))
}

/// Everything of an image that is opened by a host path.
enum Opened {
    Layers(Vec<(OwnedFd, bool)>),
    Binds(Vec<OwnedFd>),
}

fn open_sources(source: &ImageSource) -> Result<Opened, StageError> {
    match source {
        ImageSource::Layers(layers) => layers
            .iter()
            .map(|layer| match layer {
                LayerSource::Erofs(path) => Ok((open_path(path, OFlag::O_RDONLY)?, true)),
                LayerSource::Directory(path) => Ok((clone_tree(path)?, false)),
            })
            .collect::<Result<_, _>>()
            .map(Opened::Layers),
        ImageSource::Synthetic(layout) => {
            clone_trees(layout.binds.iter().map(|(source, _)| source.clone())).map(Opened::Binds)
        }
    }
}

fn assemble(source: &ImageSource, opened: Opened, devices: Vec<OwnedFd>, overlay: bool) -> Result<(), StageError> {
    match (source, opened) {
        (ImageSource::Layers(_), Opened::Layers(layers)) => assemble_layers(layers, overlay)?,
        (ImageSource::Synthetic(layout), Opened::Binds(binds)) => assemble_synthetic(layout, &binds)?,
        _ => return Err(failed("match the sources of", "the image")(Errno::EINVAL)),
    }
    mount_devices(&devices)
}

fn assemble_layers(layers: Vec<(OwnedFd, bool)>, overlay: bool) -> Result<(), StageError> {
    if !overlay && layers.len() > 1 {
        return Err(failed("stack without overlayfs the layers of", "the image")(Errno::ENODEV));
    }
    for (index, (layer, erofs)) in layers.iter().enumerate() {
        let target = if overlay { PathBuf::from(format!("layer{index}")) } else { PathBuf::from("rootfs") };
        if overlay {
            make_directory(&target)?;
        }
        if *erofs {
            mount_erofs(layer, &target)?;
        } else {
            attach(layer, &target)?;
            set_attributes_recursively(&target)?;
        }
    }
    Ok(())
}

/// Mounts an erofs file: by the file itself (Linux 6.12), else through a loop device that frees itself.
fn mount_erofs(layer: &OwnedFd, target: &Path) -> Result<(), StageError> {
    use std::os::fd::AsRawFd;
    let file = format!("/proc/self/fd/{}", layer.as_raw_fd());
    match mount(Some(file.as_str()), target, Some("erofs"), READ_ONLY, None::<&str>) {
        Err(Errno::ENOTBLK) => {
            let device = sys::attach_loop_device(layer.as_fd()).map_err(failed("find a loop device for", target))?;
            mount(Some(device.as_path()), target, Some("erofs"), READ_ONLY, None::<&str>)
        }
        result => result,
    }
    .map_err(failed("mount the erofs image on", target))
}

fn assemble_synthetic(layout: &Synthetic, binds: &[OwnedFd]) -> Result<(), StageError> {
    mount(
        Some("rootfs"),
        "rootfs",
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("size=4m,nr_inodes=4k,mode=755"),
    )
    .map_err(failed("mount a tmpfs on", "rootfs"))?;
    let inside = |path: &Path| Path::new("rootfs").join(path.strip_prefix("/").unwrap_or(path));
    let mut made = HashSet::from([PathBuf::from("rootfs")]);
    // Asking the kernel again for each of a dozen files in /etc would be half of the work.
    let mut make_directories = |path: &Path| {
        if made.contains(path) {
            return Ok(());
        }
        made.extend(path.ancestors().map(Path::to_owned));
        make_directories(path)
    };
    for directory in &layout.directories {
        make_directories(&inside(directory))?;
    }
    for (path, target) in &layout.links {
        let link = inside(path);
        make_directories(link.parent().unwrap_or(Path::new("rootfs")))?;
        std::os::unix::fs::symlink(target, &link).map_err(io_failed("make the link", &link))?;
    }
    for (path, content) in &layout.files {
        let file = inside(path);
        make_directories(file.parent().unwrap_or(Path::new("rootfs")))?;
        std::fs::write(&file, content).map_err(io_failed("write", &file))?;
    }
    for ((source, target), tree) in layout.binds.iter().zip(binds) {
        let target = inside(target);
        if is_directory(source)? {
            make_directories(&target)?;
        } else {
            make_directories(target.parent().unwrap_or(Path::new("rootfs")))?;
            std::fs::write(&target, b"").map_err(io_failed("make", &target))?;
        }
        attach(tree, &target)?;
    }
    // The tmpfs and every bind on it.
    set_attributes_recursively(Path::new("rootfs"))
}

struct Device {
    name: &'static str,
    minor: u64,
}

/// The devices of a cell; all have the memory driver's major number, 1.
const DEVICES: [Device; 5] = [
    Device { name: "null", minor: 3 },
    Device { name: "zero", minor: 5 },
    Device { name: "full", minor: 7 },
    Device { name: "random", minor: 8 },
    Device { name: "urandom", minor: 9 },
];

/// /dev: nodes of our own when we may make them, else binds of the host's.
fn mount_devices(host_devices: &[OwnedFd]) -> Result<(), StageError> {
    let dev = Path::new("dev");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("dev"), dev, Some("tmpfs"), flags, Some("size=64k,nr_inodes=32,mode=755"))
        .map_err(failed("mount a tmpfs on", dev))?;
    for (index, device) in DEVICES.iter().enumerate() {
        let path = dev.join(device.name);
        match host_devices.get(index) {
            Some(node) => {
                std::fs::write(&path, b"").map_err(io_failed("make", &path))?;
                attach(node, &path)?;
            }
            None => {
                let mode = Mode::from_bits_truncate(0o666);
                nix::sys::stat::mknod(&path, SFlag::S_IFCHR, mode, nix::sys::stat::makedev(1, device.minor))
                    .map_err(failed("make the device", &path))?;
                nix::sys::stat::fchmodat(
                    nix::fcntl::AT_FDCWD,
                    &path,
                    mode,
                    nix::sys::stat::FchmodatFlags::FollowSymlink,
                )
                .map_err(failed("set the permissions of", &path))?;
            }
        }
    }
    // shm is /tmp: POSIX semaphores and shared memory work, within the same size limit.
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("shm", "/tmp"),
    ];
    for (name, target) in links {
        let link = dev.join(name);
        std::os::unix::fs::symlink(target, &link).map_err(io_failed("make the link", &link))?;
    }
    let none = None::<&str>;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(none, dev, none, flags, none).map_err(failed("make read-only", dev))
}

/// Read-only, nosuid and nodev for a bound tree and every mount below it.
fn set_attributes_recursively(path: &Path) -> Result<(), StageError> {
    let c_path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default();
    sys::make_read_only_recursively(&c_path).map_err(failed("make read-only", path))
}

fn open_path(path: impl AsRef<Path>, flags: OFlag) -> Result<OwnedFd, StageError> {
    let path = path.as_ref();
    nix::fcntl::open(path, flags | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed("open", path))
}

fn clone_trees(paths: impl Iterator<Item = PathBuf>) -> Result<Vec<OwnedFd>, StageError> {
    paths.map(|path| clone_tree(&path)).collect()
}

fn clone_tree(path: &Path) -> Result<OwnedFd, StageError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(rustix::fs::CWD, path, flags).map_err(rustix_failed("clone the mounts of", path))
}

fn attach(tree: &OwnedFd, target: &Path) -> Result<(), StageError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", rustix::fs::CWD, target, flags).map_err(rustix_failed("mount on", target))
}

fn make_directory(path: &Path) -> Result<(), StageError> {
    std::fs::create_dir(path).map_err(io_failed("make the directory", path))
}

fn make_directories(path: &Path) -> Result<(), StageError> {
    std::fs::create_dir_all(path).map_err(io_failed("make the directory", path))
}

fn io_failed<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> StageError + 'a {
    move |error| failed(step, path)(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}
