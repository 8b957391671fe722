//! The mounts of a container, in the order in which the runtime makes them.

use super::bundle::{Request, each, shm_size};
use super::etc;
use super::ids;
use super::mount_flag;
use super::mounts::{self, Mount, Room};
use crate::error::{with_exit_code, with_hint};
use anyhow::{Result, anyhow};
use oci_spec::runtime::get_default_mounts;
use serde_json::{Value, json};
use std::path::Path;

/// The user's mounts. What the flags name comes before what another container has, and that before
/// what the image wants.
pub(super) fn of_user(request: &Request<'_>) -> Result<Vec<Mount>> {
    let flags = request.flags;
    let room = Room {
        state: request.state,
        id: request.id,
        keep_id: request.keep_id,
    };
    let mut all = each(&flags.volume, |text| mounts::volume(room, text))?;
    all.extend(each(&flags.mount, |text| mount_flag::mount(room, text))?);
    all.extend(each(&flags.tmpfs, mounts::tmpfs)?);
    for (at, mount) in all.iter().enumerate() {
        if all[..at].iter().any(|other| other.target == mount.target) {
            let error = anyhow!("two mounts have the target {}", mount.target.display());
            return Err(with_exit_code(with_hint(error, "give each its own"), 125));
        }
    }
    let mut further = Vec::new();
    // Of several containers the last one counts.
    for text in flags.volumes_from.iter().rev() {
        further.extend(mounts::from_container(room, text)?);
    }
    let of_image = request.image.config.config().as_ref();
    for path in of_image
        .and_then(|c| c.volumes().clone())
        .unwrap_or_default()
    {
        further.push(mounts::of_image(room, &path)?);
    }
    for mount in further {
        if all.iter().all(|other| other.target != mount.target) {
            all.push(mount);
        }
    }
    for mount in all.iter().filter(|mount| mount.volume.is_some()) {
        if request.image.is_dir(&mount.target) == Some(false) {
            let target = mount.target.display();
            let error = anyhow!("{target}: a file of the image is where the volume is to be");
            return Err(with_exit_code(with_hint(error, "name a directory"), 125));
        }
    }
    // A directory before what is mounted inside of it.
    all.sort_by_key(|mount| mount.target.components().count());
    Ok(all)
}

/// All mounts in their order: what every container has, and over it the user's own.
pub(super) fn whole(request: &Request<'_>, own: &[Mount]) -> Vec<Value> {
    let flags = request.flags;
    let size = shm_size(flags);
    let mut all: Vec<Value> = get_default_mounts().iter().map(|m| json!(m)).collect();
    for mount in &mut all {
        match mount["destination"].as_str().unwrap_or_default() {
            // The group tty, which is mapped unless there is one id alone.
            "/dev/pts" if ids::are_single() => {
                if let Some(options) = mount["options"].as_array_mut() {
                    options.retain(|option| option != "gid=5");
                }
            }
            "/proc" => mount["options"] = json!(["nosuid", "noexec", "nodev"]),
            dir @ ("/dev/shm" | "/dev/mqueue") if flags.ipc.as_deref() == Some("host") => {
                *mount = json!({
                    "destination": dir, "type": "bind", "source": dir, "options": ["rbind", "rw"],
                });
            }
            "/dev/shm" => {
                let size = format!("size={size}");
                mount["options"] = json!(["nosuid", "noexec", "nodev", "mode=1777", size]);
            }
            "/sys" | "/sys/fs/cgroup" if flags.privileged => {
                for option in mount["options"].as_array_mut().into_iter().flatten() {
                    if option == "ro" {
                        *option = "rw".into();
                    }
                }
            }
            _ => {}
        }
    }
    // What the host has not got cannot be shared.
    all.retain(|mount| {
        let source = mount["source"].as_str().unwrap_or_default();
        mount["type"] != "bind" || Path::new(source).exists()
    });
    if flags.init {
        all.push(json!({
            "destination": super::init::PATH, "type": "bind",
            "source": std::env::current_exe().unwrap_or_default(),
            "options": ["bind", "ro", "nosuid", "nodev"],
        }));
    }
    // A mount on /dev, say, takes the place of ours, and of what we mount inside it.
    all.retain(|mount| {
        let at = Path::new(mount["destination"].as_str().unwrap_or_default());
        own.iter().all(|mount| !at.starts_with(&mount.target))
    });
    all.extend(own.iter().map(|mount| mount.spec.clone()));
    let dir = etc::dir(request.state, request.id);
    let options: &[&str] = match flags.read_only {
        true => &["bind", "rprivate", "ro"],
        false => &["bind", "rprivate"],
    };
    let files = etc::PLACES
        .iter()
        .filter(|(_, at)| has_room(own, Path::new(at)));
    all.extend(files.map(|(file, at)| {
        json!({
            "destination": at, "type": "bind", "source": dir.join(file),
            "options": options,
        })
    }));
    all
}

/// Whether one of our files can be mounted at `path`: whoever mounts a file of his own there has his
/// way, and in what he mounts read-only there must be one to mount over.
fn has_room(own: &[Mount], path: &Path) -> bool {
    own.iter()
        .all(|mount| match path.strip_prefix(&mount.target) {
            Ok(below) if below != Path::new("") => {
                let source = mount.spec["source"].as_str().unwrap_or_default();
                mount.shown["RW"] == true || Path::new(source).join(below).exists()
            }
            Ok(_) => false,
            Err(_) => true,
        })
}
