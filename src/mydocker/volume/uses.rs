//! Who uses a volume: each container says in a file `volumes` which ones it has, from before it is
//! started until it is gone, so that a volume of a container is never removed.

use super::{Kind, Volume, data, ensure, fill, lock, take_out};
use crate::error::{with_exit_code, with_hint};
use crate::mydocker::events;
use crate::mydocker::image::Image;
use crate::mydocker::record;
use crate::mydocker::state_dirs::{State, short};
use crate::mydocker::whole_file::replace;
use anyhow::{Context, Result, anyhow};
use nix::fcntl::FlockArg;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::PathBuf;

/// A volume of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::mydocker) struct Use {
    pub(in crate::mydocker) name: String,
    /// Where the container sees it.
    pub(in crate::mydocker) target: PathBuf,
    /// Nobody gave it a name: it goes with `rm -v` of its last container.
    pub(in crate::mydocker) anonymous: bool,
    /// The container sees only this directory of it.
    pub(in crate::mydocker) subpath: Option<Subpath>,
}

/// A part of a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::mydocker) struct Subpath {
    /// Below the volume's directory.
    pub(in crate::mydocker) path: PathBuf,
    /// Where it is mounted for the runtime, in the monitor's mount namespace.
    pub(in crate::mydocker) place: PathBuf,
}

/// A volume that a container is to have.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::mydocker) struct Wanted {
    /// As it is, or as it will be made.
    pub(in crate::mydocker) volume: Volume,
    pub(in crate::mydocker) using: Use,
    /// Whether it gets what the image has at the target, if it is empty.
    pub(in crate::mydocker) copy: bool,
}

const FILE: &str = "volumes";
/// Its name while a container is removed whose volumes are to stay: without a record, that would not
/// be known to who finishes the removal.
const KEPT: &str = "volumes.kept";

/// What a container uses; nothing if it is not there.
pub(in crate::mydocker) fn of(state: &State, id: &str) -> Result<Vec<Use>> {
    for file in [FILE, KEPT] {
        let path = state.container(id).join(file);
        match std::fs::read(&path) {
            Ok(bytes) => {
                return serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} is damaged", path.display()));
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
    Ok(Vec::new())
}

/// The volumes that containers use, and the containers' names.
pub(in crate::mydocker) fn used(state: &State) -> Result<BTreeMap<String, Vec<String>>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for id in record::ids(state)? {
        let names: BTreeSet<String> = of(state, &id)?.into_iter().map(|one| one.name).collect();
        if names.is_empty() {
            continue;
        }
        let container = record::load(state, &id).map(|record| record.name);
        let container = container.unwrap_or_else(|_| short(&id).to_owned());
        for name in names {
            all.entry(name).or_default().push(container.clone());
        }
    }
    Ok(all)
}

/// The containers that use a volume.
pub(super) fn users(state: &State, name: &str) -> Result<Vec<String>> {
    Ok(used(state)?.remove(name).unwrap_or_default())
}

/// Gives a new container its volumes: makes those that are not there, notes it as their user, and
/// fills those that are empty.
pub(in crate::mydocker) fn attach(
    state: &State,
    id: &str,
    wanted: &[Wanted],
    image: &Image,
) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let uses: Vec<&Use> = wanted.iter().map(|one| &one.using).collect();
    let bytes = serde_json::to_vec_pretty(&uses).context("encode the volumes")?;
    {
        let lock = lock(state, FlockArg::LockShared)?;
        // First, so that what is made for a container that then is not is known to be its.
        replace(&state.container(id).join(FILE), &bytes, false)?;
        for one in wanted {
            ensure(state, &one.volume, &lock)?;
        }
    }
    for one in wanted {
        one_tmpfs_one_user(state, &one.volume, id)?;
        if one.copy {
            fill::fill(state, &one.volume, image, &one.using.target)
                .with_context(|| format!("fill the volume {}", one.volume.name))?;
        }
    }
    Ok(())
}

/// A tmpfs is mounted for each container anew: two would see different files.
fn one_tmpfs_one_user(state: &State, volume: &Volume, id: &str) -> Result<()> {
    if !matches!(volume.options.kind()?, Kind::Tmpfs(_)) {
        return Ok(());
    }
    for other in record::ids(state)? {
        if other != id && of(state, &other)?.iter().any(|one| one.name == volume.name) {
            let name = record::load(state, &other).map_or(other, |record| record.name);
            let error = anyhow!("the volume {} is a tmpfs, and {name} has it", volume.name);
            let hint = "containers cannot share a tmpfs yet; give each its own";
            return Err(with_exit_code(with_hint(error, hint), 125));
        }
    }
    Ok(())
}

/// Before a container is removed: whether its anonymous volumes are to stay.
pub(in crate::mydocker) fn keep(state: &State, id: &str, stay: bool) -> Result<()> {
    let dir = state.container(id);
    let (from, to) = match stay {
        true => (FILE, KEPT),
        false => (KEPT, FILE),
    };
    match std::fs::rename(dir.join(from), dir.join(to)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context("note whether its volumes stay")
        }
        _ => Ok(()),
    }
}

/// Whether the volumes of a container are to stay when its removal is finished.
pub(in crate::mydocker) fn are_kept(state: &State, id: &str) -> bool {
    state.container(id).join(KEPT).exists()
}

/// Removes the anonymous volumes of a container that is being removed, but for those that another
/// one has too.
pub(in crate::mydocker) fn release(state: &State, id: &str) -> Result<()> {
    // Of what cannot be read nothing is removed, and it is in nobody's way.
    let mine = of(state, id).unwrap_or_default();
    let mine: BTreeSet<&str> = mine
        .iter()
        .filter(|one| one.anonymous)
        .map(|one| one.name.as_str())
        .collect();
    if mine.is_empty() {
        return Ok(());
    }
    let mut garbage = Vec::new();
    {
        let _lock = lock(state, FlockArg::LockExclusive)?;
        let mut others = BTreeSet::new();
        for other in record::ids(state)?.iter().filter(|other| *other != id) {
            others.extend(of(state, other)?.into_iter().map(|one| one.name));
        }
        for name in mine {
            if !others.contains(name) && data(state, name).exists() {
                garbage.push((name, take_out(state, name)?));
            }
        }
    }
    for (name, draft) in garbage {
        drop(draft);
        events::of_volume(state, "destroy", name);
    }
    Ok(())
}
