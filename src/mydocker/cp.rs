//! `cp`: files between a container, running or not, and the host. Paths of the container are
//! resolved within its root as it sees it: that of its first process, or, for one that does not
//! run, its overlay and its volumes, mounted for as long as this takes in a mount namespace of our own.

use super::cli::{Cp, Global};
use super::copy::{Copier, Node};
use super::image::bounded;
use super::monitor_lock::MonitorLock;
use super::record::{self, Record};
use super::run::is_terminal;
use super::state_dirs::{State, make_dir};
use super::{copy_tar, events, format, overlay, stop, volume, wait};
use crate::error::{ResultExt, with_exit_code, with_hint};
use crate::linux::root::Root;
use crate::sys::fds;
use anyhow::{Context, Error, Result, anyhow};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::SFlag;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `mydocker cp`
pub fn cp(state: &State, _: &Global, args: &Cp) -> Result<i32> {
    let (from, to) = (End::parse(&args.from), End::parse(&args.to));
    let name = match (&from, &to) {
        (End::Inside(name, _), End::Host(_) | End::Stream) => name,
        (End::Host(_) | End::Stream, End::Inside(name, _)) => name,
        (End::Inside(..), End::Inside(..)) => {
            let hint = "mydocker cp A:PATH - | mydocker cp - B:DIRECTORY";
            return usage("cp: one of the two must be a path of the host", hint);
        }
        _ => {
            let hint = "a path of a container is CONTAINER:PATH";
            return usage("cp: one of the two must be a path of a container", hint);
        }
    };
    let record = record::find(state, name)?;
    let open = Open::new(state, &record).exit_code(1);
    let open = state.unless_removed(&record.id, open)?;
    let mut copier = Copier::new(args.archive);
    let result = open
        .between(&from, &to, args.follow_link, &mut copier)
        .fallback_hint("what was copied before that stays where it is now")
        .exit_code(1);
    // Closed in any case, and the first error told.
    let closed = open.close();
    state.unless_removed(&record.id, result)?;
    closed.exit_code(1)?;
    let (action, path) = match (&from, &to) {
        (End::Inside(_, path), _) => ("archive-path", path),
        (_, End::Inside(_, path)) => ("extract-to-dir", path),
        _ => return Ok(0),
    };
    events::of_container(state, &record, action, &[("path", path)]);
    if is_terminal(2) && !args.quiet {
        let size = format::size(copier.bytes);
        super::note(&format!("copied {size} to {}", args.to));
    }
    Ok(0)
}

fn usage(what: &'static str, hint: &str) -> Result<i32> {
    Err(with_exit_code(with_hint(anyhow!(what), hint), 125))
}

/// Where something comes from or goes to.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Standard input or output.
    Stream,
    Host(String),
    /// A container, and a path in it.
    Inside(String, String),
}

impl End {
    /// As Docker reads it: what begins with `/` or `.`, or has no colon, is of the host.
    fn parse(text: &str) -> End {
        if text == "-" {
            return End::Stream;
        }
        match text.split_once(':') {
            Some((name, path))
                if !text.starts_with('/') && !name.starts_with('.') && !name.is_empty() =>
            {
                End::Inside(name.to_owned(), path.to_owned())
            }
            _ => End::Host(text.to_owned()),
        }
    }
}

/// A container whose files can be reached.
struct Open {
    root: Root,
    record: Record,
    /// What holds the root of one that does not run.
    mounted: Option<Mounted>,
}

struct Mounted {
    rootfs: PathBuf,
    run_dir: PathBuf,
    /// Where mounts are to be that are empty at each start.
    tmpfs: Vec<PathBuf>,
    /// Nobody starts or removes it meanwhile.
    _lock: MonitorLock,
}

impl Open {
    fn new(state: &State, record: &Record) -> Result<Open> {
        let status = record.status(state);
        stop::not_between_lives(state, record, &status)?;
        if status.is_alive() {
            return Open::running(state, record.clone());
        }
        // Whoever is just starting it is waited for, and nobody starts it before it is held.
        let _start = state.lock_container(&record.id)?;
        match stop::decided(state, record)? {
            (record, Some(_)) => Open::running(state, record),
            (record, None) => Open::at_rest(state, record),
        }
    }

    fn running(state: &State, record: Record) -> Result<Open> {
        let pid = record.process.as_ref().map_or(0, |process| process.pid);
        let root = Root::open(Path::new(&format!("/proc/{pid}/root")));
        // It is the container's if the process is, now that it is open; and if it is not, it has ended.
        let pidfd = stop::alive(state, &record)?;
        if root.is_err() {
            // On its way out a process has no root any more, and lives for a moment longer.
            wait::until_readable(pidfd.as_fd(), Some(Duration::from_secs(1)));
            drop(stop::alive(state, &record)?);
        }
        Ok(Open {
            root: root?,
            record,
            mounted: None,
        })
    }

    fn at_rest(state: &State, mut record: Record) -> Result<Open> {
        let lock = state.take_monitor_lock_within(&record.id, stop::END_PATIENCE)?;
        let rootfs = state.rootfs(&record.id);
        let run_dir = state.run_dir(&record.id);
        make_dir(&rootfs)?;
        overlay::own_namespace(&run_dir, &[])?;
        record.settle(state)?;
        overlay::mount_container(state, &record)?;
        let root = Root::open(&rootfs)?;
        let tmpfs = volume::mount_all(state, &record, &root)?;
        Ok(Open {
            root,
            record,
            mounted: Some(Mounted {
                rootfs,
                run_dir,
                tmpfs,
                _lock: lock,
            }),
        })
    }

    fn close(self) -> Result<()> {
        drop(self.root);
        let Some(mounted) = self.mounted else {
            return Ok(());
        };
        umount2(&mounted.rootfs, MntFlags::MNT_DETACH).context("unmount the container's root")?;
        umount2(&mounted.run_dir, MntFlags::MNT_DETACH).context("unmount")?;
        // Empty directories, whatever is (not) mounted there.
        volume::clear_places(&mounted.run_dir);
        let _ = std::fs::remove_dir(&mounted.rootfs);
        let _ = std::fs::remove_dir(&mounted.run_dir);
        Ok(())
    }

    fn between(&self, from: &End, to: &End, follow: bool, copier: &mut Copier) -> Result<()> {
        let host = Root::open(Path::new("/"))?;
        let keep = self.record.keep_id.as_ref();
        match (from, to) {
            (End::Inside(_, path), End::Stream) => {
                let source = self.source(path, follow)?;
                let out = std::io::stdout().lock();
                copier.bytes = copy_tar::write(&source.node, &source.name, keep, out)?;
                Ok(())
            }
            (End::Inside(_, path), End::Host(target)) => {
                let source = self.source(path, follow)?;
                into(copier, &source, &host, &absolute(target)?)
            }
            (End::Host(path), End::Inside(_, target)) => {
                self.check_writable(target)?;
                let source = Source::find(&host, &absolute(path)?, follow)?;
                self.check_target(target)?;
                into(copier, &source, &self.root, target)
            }
            (End::Stream, End::Inside(_, target)) => {
                self.check_writable(target)?;
                let dir = self.root.resolve(Path::new(target));
                let dir = dir.map_err(|errno| missing(target, errno))?;
                if !Node::new(dir.try_clone()?)?.is_dir() {
                    return Err(not_a_directory(target));
                }
                self.check_tmpfs(&dir)?;
                let input = std::io::stdin().lock();
                let (root, target) = (&self.root, Path::new(target));
                let notes = bounded(input, |from| {
                    copy_tar::read(copier, from, root, target, keep)
                })?;
                notes.iter().for_each(|note| super::note(note));
                Ok(())
            }
            _ => Err(anyhow!("cp: one of the two must be a path of a container")),
        }
    }

    fn source(&self, path: &str, follow: bool) -> Result<Source> {
        match Source::find(&self.root, path, follow) {
            Ok(source) => {
                self.check_tmpfs(&source.node.fd)?;
                Ok(source)
            }
            // Of a tmpfs there is at most the directory where it is to be.
            Err(error) => {
                self.check_target(path)?;
                Err(error)
            }
        }
    }

    /// The root of one with --read-only, which is mounted here to be written to; what is mounted in it has
    /// its own say.
    fn check_writable(&self, target: &str) -> Result<()> {
        let read_only = self.record.shown.host_config.get("ReadonlyRootfs");
        if self.mounted.is_none() || read_only != Some(&serde_json::Value::Bool(true)) {
            return Ok(());
        }
        let mount = |fd: BorrowedFd<'_>| fds::mount_id("self", fd.as_raw_fd()).ok();
        match self.target(target) {
            Ok(fd) if mount(fd.as_fd()) == mount(self.root.as_fd()) => {
                let error = anyhow!("{} is read-only (--read-only)", self.record.name);
                Err(with_hint(error, "put the file into its image or a volume"))
            }
            _ => Ok(()),
        }
    }

    /// The directory that something goes to, or is made in.
    fn check_target(&self, path: &str) -> Result<()> {
        match self.target(path) {
            Ok(fd) => self.check_tmpfs(&fd),
            Err(_) => Ok(()),
        }
    }

    fn target(&self, path: &str) -> nix::Result<OwnedFd> {
        let path = Path::new(path);
        self.root.resolve(path).or_else(|_| {
            let parent = path.parent().unwrap_or(Path::new("/"));
            self.root.resolve(parent)
        })
    }

    /// While a container does not run, its tmpfs mounts are not there: what lies where they are to be
    /// would be hidden below them.
    fn check_tmpfs(&self, fd: &OwnedFd) -> Result<()> {
        let Some(mounted) = &self.mounted else {
            return Ok(());
        };
        let path = std::fs::read_link(fds::path(&fd)).context("look where it is")?;
        let inside = Path::new("/").join(path.strip_prefix(&mounted.rootfs).unwrap_or(&path));
        match mounted.tmpfs.iter().find(|at| inside.starts_with(at)) {
            None => Ok(()),
            Some(at) => {
                let (inside, at, name) = (inside.display(), at.display(), &self.record.name);
                let error =
                    anyhow!("{inside} is in the tmpfs {at}, which is there only while {name} runs");
                Err(with_hint(error, format!("mydocker start {name}")))
            }
        }
    }
}

fn absolute(path: &str) -> Result<String> {
    // std's removes the slash and the dot at the end, which matter.
    let mut whole = std::env::current_dir().context("find the working directory")?;
    whole.push(path);
    whole
        .into_os_string()
        .into_string()
        .map_err(|path| anyhow!("{}: it is not valid UTF-8", path.display()))
}

/// What is copied.
struct Source {
    node: Node,
    /// Its name where it is copied into a directory.
    name: OsString,
    /// `DIR/.`: what is in it, and not itself.
    contents: bool,
}

impl Source {
    fn find(root: &Root, text: &str, follow: bool) -> Result<Source> {
        let missing = |errno| missing(text, errno);
        let contents = text == "." || text.ends_with("/.");
        let path = Path::new(text);
        // A slash or a dot behind a link asks for what it leads to.
        let whole = follow || contents || text.ends_with('/') || path.file_name().is_none();
        let node = if whole {
            Node::new(root.resolve(path).map_err(missing)?)?
        } else {
            let parent = path.parent().unwrap_or(Path::new("/"));
            let name = path.file_name().unwrap_or_default();
            let parent = root.resolve(parent).map_err(missing)?;
            Node::child(parent.as_fd(), name).map_err(missing)?
        };
        if (contents || text.ends_with('/')) && !node.is_dir() {
            return Err(not_a_directory(text));
        }
        let name = match path.file_name() {
            Some(name) if !text.ends_with("/.") => name.to_owned(),
            _ => OsString::from("."),
        };
        Ok(Source {
            node,
            name,
            contents,
        })
    }
}

/// By Docker's rules: into a directory that is there, or under a new name in one that is there.
fn into(copier: &mut Copier, source: &Source, root: &Root, target: &str) -> Result<()> {
    let path = Path::new(target);
    match root.resolve(path) {
        Ok(fd) => {
            let there = Node::new(fd)?;
            if there.is_dir() {
                let dir = reopened(&there)?;
                return match source.contents || source.name == *"." {
                    true => copier.copy_entries(&source.node, dir.as_fd()),
                    false => copier.copy(&source.node, dir.as_fd(), &source.name),
                };
            }
            if target.ends_with('/') {
                return Err(not_a_directory(target));
            }
            if source.node.is_dir() {
                let error = anyhow!("{target} is a file: a directory cannot be copied to it");
                return Err(with_hint(
                    error,
                    "name a directory, or what is not there yet",
                ));
            }
            if there.kind() != SFlag::S_IFREG {
                let error =
                    anyhow!("{target} is a device, a pipe or a socket, and would become a file");
                return Err(with_hint(
                    error,
                    "name a file or a directory; - is standard output, as tar",
                ));
            }
            // What a link leads to is what is overwritten: its own directory and name.
            let (dir, name) = place_of(root, path)?;
            copier.copy(&source.node, dir.as_fd(), &name)
        }
        Err(Errno::ENOENT) => {
            let slash = target.ends_with('/') || target.ends_with("/.");
            if slash && !source.node.is_dir() {
                let error = anyhow!("{target}: no such directory");
                return Err(with_hint(error, "make it first, or leave out the slash"));
            }
            let name = path.file_name().unwrap_or_default();
            let parent = path.parent().unwrap_or(Path::new("/"));
            let dir = root
                .resolve(parent)
                .map_err(|errno| missing(target, errno))?;
            let dir = reopened(&Node::new(dir)?)?;
            copier.copy(&source.node, dir.as_fd(), name)
        }
        Err(errno) => Err(missing(target, errno)),
    }
}

/// The directory and the name of a file, after all links: a link at the end is followed by hand,
/// within the root.
fn place_of(root: &Root, path: &Path) -> Result<(OwnedFd, OsString)> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        let name = path.file_name().unwrap_or_default().to_owned();
        let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
        let shown = path.display().to_string();
        let dir = root
            .resolve(&parent)
            .map_err(|errno| missing(&shown, errno))?;
        let node = Node::child(dir.as_fd(), &name).map_err(|errno| missing(&shown, errno))?;
        if node.kind() != SFlag::S_IFLNK {
            return Ok((dir, name));
        }
        path = parent.join(node.link()?);
    }
    Err(missing(&path.display().to_string(), Errno::ELOOP))
}

/// An `O_PATH` descriptor of a directory, as one that files can be made in.
fn reopened(node: &Node) -> Result<OwnedFd> {
    use nix::fcntl::{OFlag, openat};
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(
        &node.fd,
        OsStr::new("."),
        flags,
        nix::sys::stat::Mode::empty(),
    )
    .context("open the directory")
    .hint("its directory must be there")
}

fn missing(path: &str, errno: Errno) -> Error {
    let error = match errno {
        Errno::ENOENT => anyhow!("{path}: no such file or directory"),
        Errno::ENOTDIR => anyhow!("{path}: not a directory"),
        other => anyhow!(other).context(path.to_owned()),
    };
    with_hint(
        error,
        "a path of a container begins at its root, whatever its working directory",
    )
}

fn not_a_directory(path: &str) -> Error {
    with_hint(anyhow!("{path} is not a directory"), "leave out the slash")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_path_it_is() {
        let inside = |name: &str, path: &str| End::Inside(name.into(), path.into());
        let host = |path: &str| End::Host(path.into());
        for (text, end) in [
            ("-", End::Stream),
            ("web:/etc", inside("web", "/etc")),
            ("web:etc/x:y", inside("web", "etc/x:y")),
            ("./web:x", host("./web:x")),
            ("/a:b", host("/a:b")),
            ("file", host("file")),
            (":x", host(":x")),
        ] {
            assert_eq!(End::parse(text), end, "{text}");
        }
    }
}
