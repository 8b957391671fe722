//! `restore`: a container from the files of `checkpoint`. criu makes its processes, in the cgroup
//! that is made for it as by `create`; the rest of the story is that of `run`.

use super::cli::CgroupManager;
use super::cli_checkpoint::Restore;
use super::create::{self, Created};
use super::criu::{self, Criu, Directories, Surroundings};
use super::criu_messages::{CgroupRoot, ExternalMount, Kind, Options, Request};
use super::host::Host;
use super::notify::{self, Proxy};
use super::plan::{self, Plan};
use super::store::{Container, Lock, Process, Store};
use super::undo::{self, Undo};
use super::{checkpoint, delete, log, outside, relay, spawn};
use crate::cgroup::{self, Doors};
use crate::error::{ResultExt, message};
use crate::linux::mounts::MountStep;
use crate::linux::root::Root;
use crate::linux::sysctl::{self, Procfs};
use crate::linux::{console, criu_mounts, namespaces, netdev};
use crate::sys::net::loopback_up;
use crate::sys::process::{pidfd_open, prctl};
use anyhow::{Context, Result, anyhow};
use oci_spec::runtime::LinuxNamespaceType;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// In `--work-path`.
const LOG: &str = "restore.log";
/// In the container's directory of the store: where criu sees the root filesystem.
const ROOT: &str = "root";

/// `runtime restore ID`. Returns the exit code of the program, or 0 with --detach. `criu` is what
/// `--criu` names.
pub fn restore(
    store: &Store,
    args: &Restore,
    manager: CgroupManager,
    criu: Option<&Path>,
) -> Result<i32> {
    if args.no_pivot {
        return Err(anyhow!(
            "--no-pivot: criu enters the root with pivot_root(2) only"
        ))
        .hint("restore the container where the machine's root is not a ramdisk");
    }
    let options = plan::Options {
        manager,
        ..plan::Options::default()
    };
    let plan = create::make_plan(store, &args.making, &args.id, options)?;
    outside::check(&plan.namespaces, &plan.mounts)?;
    let mut files =
        Directories::of_checkpoint(&args.criu.image_path, args.criu.work_path.as_deref())?;
    let program = criu::find(criu)?;
    let path = args.making.console_socket.as_deref();
    let (ours, theirs) = if args.detach {
        (None, create::console_socket(&plan, path)?)
    } else {
        create::own_console(&plan, path)?
    };
    if !args.detach && !args.no_subreaper {
        prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).context("become a subreaper")?;
    }
    let restored = build(store, args, &plan, &mut files, &program, theirs)
        .with_context(|| format!("restore {:?}", args.id))?;
    let proxy = Proxy::listen(restored.container.dir()).unwrap_or_else(|error| {
        log::warn(&message(&error));
        None
    });
    if args.detach {
        // What was saved was ready, or will be some day: there is nothing to wait for.
        return Ok(0);
    }
    follow(restored, ours, proxy)
}

/// As `run` does it from here on.
fn follow(restored: Created, terminal: Option<UnixStream>, proxy: Option<Proxy>) -> Result<i32> {
    let Created {
        container,
        pidfd,
        lock,
    } = restored;
    let relay = relay::Relay::prepare(terminal, proxy);
    drop(lock);
    let code = relay.and_then(|relay| relay.until_end(pidfd.as_fd()));
    let deleted = delete::after_end(&container);
    let code = code?;
    deleted?;
    Ok(code)
}

/// Makes the container. Whatever fails, what was made is undone; and what we leave when we are
/// killed is that of a killed `create`.
fn build(
    store: &Store,
    args: &Restore,
    plan: &Plan,
    files: &mut Directories,
    program: &Path,
    console: Option<UnixStream>,
) -> Result<Created> {
    let ((container, pidfd), lock) = undo::attempt(store, plan, |undo, lock| {
        let made = make(args, files, program, console.as_ref(), undo, lock)?;
        if let Some(path) = &args.making.pid_file {
            create::write_pid_file(path, pid_of(&made.0)?)?;
        }
        Ok(made)
    })?;
    Ok(Created {
        container,
        pidfd,
        lock,
    })
}

/// The container in its directory of the store, and its first process.
fn make(
    args: &Restore,
    files: &mut Directories,
    program: &Path,
    console: Option<&UnixStream>,
    undo: &mut Undo<'_>,
    lock: &Lock,
) -> Result<(Container, OwnedFd)> {
    let plan = undo.plan();
    let dir = undo.dir().to_owned();
    let mut container = Container::new(dir.clone(), create::saved(plan)?);
    container.save()?;
    container.save_spec(&plan.spec)?;
    // There in any case: the saved container may have had one.
    notify::make_dir(&dir)?;
    let root = dir.join(ROOT);
    fs::create_dir(&root).with_context(|| format!("make {}", root.display()))?;
    make_mount_points(plan)?;
    let is_placed = plan.cgroup.needs_a_process();
    create::set_up_cgroup(plan, &mut container, undo)?;
    create::set_up_rdt(plan, &mut container, undo)?;
    let joined = plan.namespaces.open_joined()?;
    let (cgroup, doors) = match is_placed {
        true => (None, Doors::none()),
        false => (plan.cgroup.clone_fd(), {
            let born_in_it = plan.cgroup.clone_fd().is_some();
            plan.cgroup.doors(!born_in_it)?
        }),
    };
    let kept: Vec<_> = joined.iter().map(|(_, fd)| fd.as_fd()).collect();
    let surroundings = Surroundings {
        files,
        view: &plan.cgroup.view(&Host::probe()?.cgroups),
        dir: &dir,
        cgroup,
        kept: &kept,
    };
    let criu = Criu::start(program, surroundings, || {
        lock.leave_to_parent();
        spawn::enter(&doors)?;
        criu::stand_alone(args.criu.shell_job)?;
        criu_mounts::show_root(&plan.rootfs, &root)
    })?;
    drop(doors);
    undo.at_work = true;
    undo.init = Some(criu.pidfd.try_clone().context("duplicate a pidfd")?);
    if is_placed {
        create::place(plan, &container, criu.pid, undo)
            .map_err(|error| undo::cause(error, criu.silence()))?;
    }
    container.enter_rdt(criu.pid)?;
    criu.check_version()?;
    let request = request(args, plan, files, &root, criu.pid, &joined)?;
    let pidfd = attend(criu, request, files, &mut container, undo, console)?;
    Ok((container, pidfd))
}

fn pid_of(container: &Container) -> Result<i32> {
    let init = container.saved.init.as_ref();
    Ok(init.context("criu has not told of its process")?.pid)
}

/// Has criu restore, and does our part when it is time. Returns the descriptor of the container's
/// first process.
fn attend(
    criu: Criu,
    request: Request,
    files: &Directories,
    container: &mut Container,
    undo: &mut Undo<'_>,
    console: Option<&UnixStream>,
) -> Result<OwnedFd> {
    let plan = undo.plan();
    let empty = request.opts.as_ref().map_or(0, Options::empty_ns);
    let has_empty_network = plan.namespaces.makes(LinuxNamespaceType::Network)
        && empty & namespaces::flag(LinuxNamespaceType::Network) as u32 != 0;
    let mut init = None;
    criu.serve(request, files, LOG, |what, pid, fd| {
        match (what, fd) {
            // The first process is there, and its namespaces are.
            ("setup-namespaces", _) => {
                if has_empty_network {
                    let network = create::network_of(pid)?;
                    netdev::inside(network.as_fd(), || loopback_up().context("bring up lo"))?;
                }
                if plan.net_devices() {
                    create::move_net_devices(plan, pid)?;
                }
                undo.hooks_ran = true;
                create::host_hooks(plan, container, pid)?;
                if has_empty_network {
                    let network = create::network_of(pid)?;
                    netdev::inside(network.as_fd(), || set_network_parameters(plan))?;
                }
            }
            ("orphan-pts-master", Some(master)) => {
                if let Some(socket) = console {
                    console::send_fd(socket, "/dev/pts/ptmx", master.as_fd())?;
                }
            }
            // All is there, and stands still until our answer: nothing runs that is not stored.
            ("post-restore", _) => {
                let pidfd = pidfd_open(pid).context("pidfd_open")?;
                undo.init = Some(pidfd.try_clone().context("duplicate a pidfd")?);
                init = Some(pidfd);
                container.saved.init = Some(Process::of(pid)?);
                container.save()?;
            }
            _ => {}
        }
        Ok(())
    })?;
    init.context("criu has not told of its process")
}

/// Those of linux.sysctl that were not saved with an empty network namespace. /proc/sys/net is that of
/// the process that opens it.
fn set_network_parameters(plan: &Plan) -> Result<()> {
    match plan.linux().sysctl() {
        Some(all) => sysctl::apply(&Procfs::open(Path::new("/proc"))?, &sysctl::of_network(all)),
        None => Ok(()),
    }
}

/// What criu is asked to do. `root` is where it sees the root filesystem.
fn request(
    args: &Restore,
    plan: &Plan,
    files: &Directories,
    root: &Path,
    criu: i32,
    joined: &[(LinuxNamespaceType, OwnedFd)],
) -> Result<Request> {
    let path = files.images.join(outside::DESCRIPTORS);
    let streams: Vec<String> = match fs::read(&path) {
        // Images that criu has made without a runtime.
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        other => {
            serde_json::from_slice(&other.with_context(|| format!("read {}", path.display()))?)
                .with_context(|| format!("{} is damaged", path.display()))?
        }
    };
    let (mut inherit_fd, join_ns) = outside::namespaces_to_give(&plan.namespaces, joined);
    inherit_fd.extend(outside::descriptors_to_give(&streams));
    let mut ext_mnt = outside::mounts_to_give(&plan.mounts);
    ext_mnt.extend(always_given(root));
    let cg_root = cgroup::kernel_paths(criu)?
        .into_iter()
        .map(|(name, path)| CgroupRoot {
            ctrl: Some(name),
            path: path.display().to_string(),
        });
    let opts = Options {
        root: Some(root.display().to_string()),
        rst_sibling: Some(true),
        ext_mnt,
        inherit_fd,
        join_ns,
        cg_root: if plan.cgroup.is_none() {
            Vec::new()
        } else {
            cg_root.collect()
        },
        lsm_profile: args.lsm_profile.clone(),
        lsm_mount_context: args.lsm_mount_context.clone(),
        ..checkpoint::options(
            &args.criu,
            &plan.spec,
            &plan.cgroup,
            root.parent().unwrap_or(root),
        )
    };
    Ok(Request {
        kind: Kind::Restore.into(),
        opts: Some(opts),
        ..Request::default()
    })
}

/// Mounts that may be in the images whatever config.json says: our directory for sd_notify(3), and
/// runc's name for what hides a file.
fn always_given(root: &Path) -> Vec<ExternalMount> {
    let dir = root.parent().unwrap_or(root);
    let notify = notify::mount_in(dir);
    let pairs = [
        notify,
        (PathBuf::from("/dev/null"), PathBuf::from("/dev/null")),
    ];
    pairs
        .into_iter()
        .map(|(inside, outside)| ExternalMount {
            key: inside.display().to_string(),
            val: outside.display().to_string(),
        })
        .collect()
}

/// The root filesystem may be a fresh one, which lacks what mounts are made on. Those on top of
/// another mount are where they were.
fn make_mount_points(plan: &Plan) -> Result<()> {
    let root = Root::open(&plan.rootfs)?;
    let mut above: Vec<&Path> = Vec::new();
    for step in &plan.mounts {
        let (target, is_dir) = match step {
            MountStep::Bind {
                index,
                source,
                target,
                ..
            } => {
                let what = || format!("mounts[{index}]: {}", source.display());
                (target, fs::metadata(source).with_context(what)?.is_dir())
            }
            MountStep::Fs { target, .. } | MountStep::Cgroup { target, .. } => (target, true),
            _ => continue,
        };
        if !above.iter().any(|mount| target.starts_with(mount)) {
            match is_dir {
                true => root.mkdir_all(target, 0o755)?,
                false => root.create_file(target, 0o644)?,
            };
        }
        above.push(target);
    }
    Ok(())
}
