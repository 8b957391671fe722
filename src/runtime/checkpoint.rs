//! `checkpoint`: criu writes the processes of a container to files, from which `restore` makes them
//! again. The container is deleted then, unless it is to go on.

use super::cli_checkpoint::{CgroupsMode, Checkpoint, Criu as Args, EmptyNamespace};
use super::criu::{self, Criu, Directories, Surroundings};
use super::criu_messages::{CgroupMode, Kind, Options, PageServer, Request};
use super::host::Host;
use super::outside;
use super::plan;
use super::store::{Container, Lock, Process, Status, Store};
use super::{delete, log};
use crate::cgroup::Cgroup;
use crate::error::{ResultExt, message};
use crate::linux::namespaces::{self, Namespaces};
use crate::linux::root::Root;
use anyhow::{Context, Result, anyhow};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// In `--work-path`.
const LOG: &str = "dump.log";
/// criu's configuration for containers: runc's, for people have it already. A missing file is none.
const CONFIG: &str = "/etc/criu/runc.conf";
/// The annotation that names another, or with an empty value none.
pub const CONFIG_ANNOTATION: &str = "org.criu.config";
/// Every detail, as criu's developers want it in reports.
const LOG_LEVEL: i32 = 4;

/// `runtime checkpoint ID`. `criu` is what `--criu` names.
pub fn checkpoint(store: &Store, args: &Checkpoint, criu: Option<&Path>) -> Result<()> {
    let container = store.load(&args.id)?;
    let lock = Lock::take(container.dir())?;
    let init = dumpable(&container)?;
    let program = criu::find(criu)?;
    let was_frozen = container.cgroup().is_frozen()?;
    let mut files = Directories::make(&args.criu.image_path, args.criu.work_path.as_deref())?;
    let dumped = check_parent(args, &files)
        .and_then(|()| dump(&container, init, args, &program, &mut files, &lock));
    // Empty, as we see it.
    let _ = fs::remove_dir(criu::yard(container.dir()));
    if dumped.is_err() {
        files.discard();
        if !was_frozen {
            thaw(&container);
        }
    }
    dumped.with_context(|| format!("checkpoint {:?}", args.id))?;
    if args.leave_running || args.pre_dump {
        return Ok(());
    }
    delete::destroy(&container)
}

/// Has criu do it. Should we be killed, it goes on to hold the lock until it has taken all back.
fn dump(
    container: &Container,
    init: &Process,
    args: &Checkpoint,
    program: &Path,
    files: &mut Directories,
    lock: &Lock,
) -> Result<()> {
    let mut status = status_file(args)?;
    let host = Host::probe()?;
    let request = request(container, init, args, &host, files)?;
    let surroundings = Surroundings {
        files,
        view: &container.cgroup().view(&host.cgroups),
        dir: container.dir(),
        cgroup: None,
        kept: &[lock.as_fd()],
    };
    let shell_job = args.criu.shell_job;
    let criu = Criu::start(program, surroundings, || criu::stand_alone(shell_job))?;
    criu.check_version()?;
    criu.serve(request, files, LOG, |what, _, _| {
        match (what, &mut status) {
            ("status-ready", Some(file)) => file.write_all(&[0]).context("write to --status-fd"),
            _ => Ok(()),
        }
    })
    .map(drop)
}

/// A criu that was killed may have left the container frozen.
fn thaw(container: &Container) {
    let cgroup = container.cgroup();
    if cgroup.is_frozen().unwrap_or(false)
        && let Err(error) = cgroup.thaw()
    {
        log::warn(&message(&error));
    }
}

/// The first process of a container that can be saved as it is.
fn dumpable(container: &Container) -> Result<&Process> {
    match (container.status()?, &container.saved.init) {
        (Status::Running | Status::Paused, Some(init)) => Ok(init),
        (status, _) => Err(anyhow!("container {:?} is {status}", container.id()))
            .hint("only a running or paused container can be checkpointed"),
    }
}

/// What `--status-fd` names, for writing.
fn status_file(args: &Checkpoint) -> Result<Option<fs::File>> {
    if args.status_fd < 0 {
        return Ok(None);
    }
    let path = format!("/proc/self/fd/{}", args.status_fd);
    let file = OpenOptions::new().write(true).open(path);
    file.with_context(|| format!("--status-fd {}", args.status_fd))
        .map(Some)
}

/// `--parent-path` is stored as it is given, and criu looks there from the images.
fn check_parent(args: &Checkpoint, files: &Directories) -> Result<()> {
    let Some(parent) = &args.parent_path else {
        return Ok(());
    };
    let what = || format!("--parent-path {}", parent.display());
    if parent.is_absolute() {
        return Err(anyhow!("{}: it must be relative to --image-path", what()))
            .hint("the images stay together when they are moved; ../NAME is the usual form");
    }
    let found = files.images.join(parent);
    if !found.is_dir() {
        return Err(anyhow!("{}: {} is no directory", what(), found.display()))
            .hint("it is relative to --image-path");
    }
    Ok(())
}

/// What criu is asked to do. Beside it the names of the standard streams are written down.
fn request(
    container: &Container,
    init: &Process,
    args: &Checkpoint,
    host: &Host,
    files: &Directories,
) -> Result<Request> {
    let spec = container.spec()?;
    let namespaces = Namespaces::new(plan::linux_of(&spec));
    let bundle = &container.saved.bundle;
    let mounts = plan::mounts_of(&spec, bundle, &namespaces, host, container.cgroup());
    outside::check(&namespaces, &mounts)?;
    let root = Root::open(&PathBuf::from(format!("/proc/{}/root", init.pid)))?;
    let streams = outside::descriptors(init.pid)?;
    let mut external = outside::namespaces_to_leave(&namespaces, init.pid)?;
    external.extend(outside::foreign_files(&streams));
    if !args.pre_dump {
        let path = files.images.join(outside::DESCRIPTORS);
        fs::write(&path, serde_json::to_vec(&streams)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    let opts = Options {
        pid: Some(init.pid),
        root: Some(container.saved.rootfs.display().to_string()),
        ext_mnt: outside::mounts_to_leave(&mounts, &root),
        external,
        freeze_cgroup: container
            .cgroup()
            .freezer_dir()
            .map(|dir| dir.display().to_string()),
        ..of_arguments(
            args,
            options(&args.criu, &spec, container.cgroup(), container.dir()),
        )
    };
    if opts.empty_ns() != 0 {
        log::info("the network is not saved: what makes it, hooks as a rule, is to do so again");
    }
    let kind = if args.pre_dump {
        Kind::PreDump
    } else {
        Kind::Dump
    };
    Ok(Request {
        kind: kind.into(),
        opts: Some(opts),
        ..Request::default()
    })
}

/// The options of `checkpoint` alone.
fn of_arguments(args: &Checkpoint, common: Options) -> Options {
    Options {
        leave_running: Some(args.leave_running),
        tcp_skip_in_flight: Some(args.tcp_skip_in_flight),
        link_remap: Some(args.link_remap),
        // Without it the next dump could not tell what has changed since.
        track_mem: Some(args.pre_dump),
        parent_img: args
            .parent_path
            .as_ref()
            .map(|path| path.display().to_string()),
        ps: args.page_server.as_ref().map(|server| PageServer {
            address: Some(server.address.clone()),
            port: Some(server.port.into()),
        }),
        ..common
    }
}

/// The options that a dump and a restore have in common. `dir` is the container's directory of the
/// store.
pub fn options(args: &Args, spec: &Spec, cgroup: &Cgroup, dir: &Path) -> Options {
    let mode = match args.manage_cgroups_mode {
        // Where the caller is now, that is.
        _ if cgroup.is_none() => CgroupMode::Ignore,
        CgroupsMode::Soft => CgroupMode::Soft,
        CgroupsMode::Full => CgroupMode::Full,
        CgroupsMode::Strict => CgroupMode::Strict,
        CgroupsMode::Ignore => CgroupMode::Ignore,
    };
    let annotations = spec.annotations().as_ref();
    let config = annotations.and_then(|all| all.get(CONFIG_ANNOTATION));
    let config_file = match config.map(String::as_str) {
        None => Some(CONFIG.to_owned()),
        Some("") => None,
        Some(path) => Some(path.to_owned()),
    };
    Options {
        log_level: Some(LOG_LEVEL),
        cgroup_yard: Some(criu::yard(dir).display().to_string()),
        notify_scripts: Some(true),
        evasive_devices: Some(true),
        orphan_pts_master: Some(true),
        manage_cgroups_mode: Some(mode.into()),
        empty_ns: Some(empty_namespaces(args, spec)),
        config_file,
        tcp_established: Some(args.tcp_established),
        ext_unix_sk: Some(args.ext_unix_sk),
        shell_job: Some(args.shell_job),
        file_locks: Some(args.file_locks),
        auto_dedup: Some(args.auto_dedup),
        lazy_pages: Some(args.lazy_pages),
        ..Options::default()
    }
}

/// The namespaces (`CLONE_NEW*`) that criu makes, but leaves as they are then.
fn empty_namespaces(args: &Args, spec: &Spec) -> u32 {
    let namespaces = Namespaces::new(plan::linux_of(spec));
    let furnished = outside::furnishes_network(spec, &namespaces);
    match furnished || args.empty_ns.contains(&EmptyNamespace::Network) {
        true => namespaces::flag(LinuxNamespaceType::Network) as u32,
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cli::{Cli, Verb};
    use clap::Parser;
    use serde_json::{Value, json};

    fn parse(words: &[&str]) -> Checkpoint {
        let cli = Cli::try_parse_from(["runtime", "checkpoint"].iter().chain(words)).unwrap();
        match cli.verb {
            Verb::Checkpoint(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn plain_config() -> Value {
        json!({"ociVersion": "1.0.2", "linux": {"namespaces": [{"type": "network"}]}})
    }

    fn made(words: &[&str], config: Value) -> Options {
        let args = parse(words);
        let host = crate::cgroup::Host::probe().unwrap();
        let cgroup = Cgroup::plan(&host, None, "id", crate::cgroup::Manager::Fs).unwrap();
        let spec = serde_json::from_value(config).unwrap();
        of_arguments(&args, options(&args.criu, &spec, &cgroup, Path::new("/c")))
    }

    #[test]
    fn every_option_reaches_criu() {
        let plain = made(&["id"], plain_config());
        assert_eq!(plain.manage_cgroups_mode, Some(CgroupMode::Soft.into()));
        assert_eq!(plain.config_file(), "/etc/criu/runc.conf");
        assert_eq!(plain.empty_ns, Some(0));
        type Get = fn(&Options) -> bool;
        let all: [(&[&str], Get); 14] = [
            (&["--leave-running"], |o| o.leave_running()),
            (&["--tcp-established"], |o| o.tcp_established()),
            (&["--tcp-skip-in-flight"], |o| o.tcp_skip_in_flight()),
            (&["--link-remap"], |o| o.link_remap()),
            (&["--ext-unix-sk"], |o| o.ext_unix_sk()),
            (&["--shell-job"], |o| o.shell_job()),
            (&["--file-locks"], |o| o.file_locks()),
            (&["--auto-dedup"], |o| o.auto_dedup()),
            (&["--lazy-pages"], |o| o.lazy_pages()),
            (&["--pre-dump"], |o| o.track_mem()),
            (&["--parent-path", "../p"], |o| o.parent_img() == "../p"),
            (&["--empty-ns", "network"], |o| o.empty_ns() == 0x4000_0000),
            (&["--manage-cgroups-mode", "ignore"], |o| {
                o.manage_cgroups_mode == Some(CgroupMode::Ignore.into())
            }),
            (&["--page-server", "1.2.3.4:5"], |o| {
                let server = o.ps.clone().unwrap_or_default();
                (server.address(), server.port()) == ("1.2.3.4", 5)
            }),
        ];
        for (words, is_set) in all {
            let words: Vec<&str> = words.iter().copied().chain(["id"]).collect();
            assert!(is_set(&made(&words, plain_config())), "{words:?}");
            assert!(!is_set(&plain), "{words:?} without it");
        }
    }

    #[test]
    fn an_annotation_names_the_configuration() {
        let with = |path: &str| {
            let mut config = plain_config();
            config["annotations"] = json!({"org.criu.config": path});
            made(&["id"], config)
        };
        assert_eq!(with("/x").config_file(), "/x");
        assert_eq!(with("").config_file, None);
    }

    #[test]
    fn a_network_that_hooks_make_is_left_empty() {
        let mut config = plain_config();
        config["hooks"] = json!({"prestart": [{"path": "/bin/true"}]});
        assert_eq!(made(&["id"], config).empty_ns(), 0x4000_0000);
    }

    #[test]
    fn a_parent_is_beside_the_images() {
        let files = Directories::make(&std::env::temp_dir(), None).unwrap();
        for (parent, words) in [("/tmp", "relative"), ("no/such", "no directory")] {
            let args = parse(&["--parent-path", parent, "id"]);
            let error = check_parent(&args, &files).unwrap_err();
            assert!(message(&error).contains(words), "{error:#}");
        }
        check_parent(&parse(&["--parent-path", "..", "id"]), &files).unwrap();
    }
}
