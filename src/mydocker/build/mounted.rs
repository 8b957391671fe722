//! What `RUN --mount=` names, found, and made ready to be mounted.

use super::mount::{Kind, Mount};
use super::pattern::Ignore;
use super::stage::{Builder, Work};
use super::tree::{Change, Source, Tree};
use super::view::View;
use crate::error::ResultExt;
use crate::mydocker::image::{Draft, Parts};
use crate::mydocker::remove_tree::remove_tree;
use crate::mydocker::sha256::Sha256;
use crate::mydocker::state_dirs::{is_at, lock_file};
use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A mount of a step.
pub(super) struct Mounted {
    mount: Mount,
    /// In the container, absolute.
    target: PathBuf,
    /// What `from` names; without it the context.
    from: Option<Parts>,
}

impl Mounted {
    pub(super) fn new(builder: &mut Builder<'_>, work: &Work, mount: Mount) -> Result<Mounted> {
        let is_filled = mount.from.is_some() || !mount.source.is_empty();
        if mount.kind == Kind::Cache && is_filled {
            return Err(anyhow!(
                "--mount: from= and source= of a cache are not supported"
            ))
            .hint("a cache begins empty");
        }
        let from = mount.from.as_deref().map(|name| builder.source(work, name));
        let target = match mount.target.as_str() {
            "" => Path::new("/run/secrets").join(mount.name()?),
            target => Path::new(work.workdir()).join(target),
        };
        Ok(Mounted {
            from: from.transpose()?,
            target,
            mount,
        })
    }

    /// What of it a step depends on: not what a cache or a secret holds.
    pub(super) fn key(&self, builder: &Builder<'_>) -> Result<Value> {
        if self.mount.kind != Kind::Bind {
            let kind = format!("{:?}", self.mount.kind);
            return Ok(json!([kind, self.target, self.mount.id, self.mount.env]));
        }
        let mut digest = Sha256::new();
        self.look(builder, |tree, source| {
            tree.digest(source, &Change::default(), &mut digest)
        })?;
        Ok(json!([self.target, digest.finish()]))
    }

    /// Looks at what is to be mounted.
    fn look<T>(
        &self,
        builder: &Builder<'_>,
        then: impl FnOnce(&Tree<'_>, &Source) -> Result<T>,
    ) -> Result<T> {
        let open = |parts| View::open(builder.store, parts);
        let view = self.from.as_ref().map(open).transpose()?;
        let context = builder.context;
        let tree = Tree {
            root: match &view {
                Some(view) => Some(view.root()?),
                None => context.root.as_ref(),
            },
            ignore: view.is_none().then_some(&context.ignore),
            exclude: Ignore::default(),
        };
        let path = self.mount.source.trim_matches('/');
        let source = tree.find(Path::new(path))?;
        let source = source.with_context(|| format!("--mount: source {path:?}: not found"))?;
        then(&tree, &source)
    }
}

/// Where the mounts of one step are made ready; it goes with the step.
pub(super) struct Room {
    draft: Draft,
    count: usize,
    /// Options of `run`.
    pub(super) words: Vec<String>,
    /// Variables that hold secrets.
    pub(super) env: Vec<String>,
    /// Of caches: shared, or where one build at a time may use it.
    locks: Vec<Flock<File>>,
}

impl Room {
    pub(super) fn new(builder: &Builder<'_>) -> Result<Room> {
        Ok(Room {
            draft: builder.store.draft()?,
            count: 0,
            words: Vec::new(),
            env: Vec::new(),
            locks: Vec::new(),
        })
    }

    pub(super) fn put(&mut self, builder: &Builder<'_>, mounted: &Mounted) -> Result<()> {
        match mounted.mount.kind {
            Kind::Bind => self.bind(builder, mounted),
            Kind::Cache => self.cache(builder, mounted),
            Kind::Secret => self.secret(builder, mounted),
            Kind::Tmpfs => {
                let size = mounted.mount.size.map(|size| format!(",tmpfs-size={size}"));
                let target = field("target", &mounted.target);
                let size = size.unwrap_or_default();
                self.words
                    .push(format!("--mount=type=tmpfs,{target}{size}"));
                Ok(())
            }
        }
    }

    fn path(&mut self) -> PathBuf {
        self.count += 1;
        self.draft.path().join(self.count.to_string())
    }

    fn mount(&mut self, source: &Path, target: &Path, read_only: bool) {
        let (source, target) = (field("source", source), field("target", target));
        let ro = if read_only { ",readonly" } else { "" };
        self.words
            .push(format!("--mount=type=bind,{source},{target}{ro}"));
    }

    /// A copy, so that nothing that is left out is seen, and nothing of what is written stays.
    fn bind(&mut self, builder: &Builder<'_>, mounted: &Mounted) -> Result<()> {
        let path = self.path();
        let name = OsStr::new("it");
        std::fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        let dir = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        mounted.look(builder, |tree, source| {
            tree.copy(source, &Change::default(), dir.as_fd(), name)
        })?;
        self.mount(&path.join(name), &mounted.target, mounted.mount.read_only);
        Ok(())
    }

    fn cache(&mut self, builder: &Builder<'_>, mounted: &Mounted) -> Result<()> {
        let mount = &mounted.mount;
        let name = Sha256::of(mount.name()?.as_ref());
        let dir = builder.state.root.join("build/caches").join(name);
        let make = || format!("make {}", dir.display());
        let how = match mount.locked {
            true => FlockArg::LockExclusive,
            false => FlockArg::LockShared,
        };
        loop {
            if !dir.exists() {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&dir)
                    .with_context(make)?;
                own(&dir, mount.mode.unwrap_or(0o755), mount.owner)?;
            }
            let file = File::open(&dir).with_context(make)?;
            let lock = lock_file(file, how).context("lock the cache")?;
            // It may have been pruned meanwhile.
            if is_at(&lock, &dir) {
                self.locks.push(lock);
                break;
            }
        }
        self.mount(&dir, &mounted.target, mount.read_only);
        Ok(())
    }

    fn secret(&mut self, builder: &Builder<'_>, mounted: &Mounted) -> Result<()> {
        let mount = &mounted.mount;
        let name = mount.name()?;
        let Some(content) = secret(&builder.args.secret, name)? else {
            ensure!(
                !mount.required,
                "the secret {name} is required: --secret id={name},src=FILE"
            );
            return Ok(());
        };
        if let Some(variable) = &mount.env {
            let text = String::from_utf8(content.clone()).context("a secret in a variable is text");
            self.env.push(format!("{variable}={}", text?));
            if mount.target.is_empty() {
                return Ok(());
            }
        }
        self.file(
            &mounted.target,
            &content,
            mount.mode.unwrap_or(0o400),
            mount.owner,
        )
    }

    /// A file that is only there for the step.
    pub(super) fn file(
        &mut self,
        target: impl AsRef<Path>,
        content: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> Result<()> {
        let path = self.path();
        std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        own(&path, mode, owner)?;
        self.mount(&path, target.as_ref(), true);
        Ok(())
    }
}

/// Removes the caches that no build uses at present.
pub(super) fn forget_caches(caches: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(caches) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("list {}", caches.display()))?,
    };
    for entry in entries {
        let path = entry.context("list the caches")?.path();
        let remove = || format!("remove {}", path.display());
        let dir = File::open(&path).with_context(remove)?;
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(_lock) => remove_tree(&path).with_context(remove)?,
            Err((_, Errno::EWOULDBLOCK)) => {}
            Err((_, errno)) => return Err(errno).with_context(remove),
        }
    }
    // Unless something stays.
    let _ = std::fs::remove_dir(caches);
    Ok(())
}

fn own(path: &Path, mode: u32, (uid, gid): (u32, u32)) -> Result<()> {
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
        .and_then(|()| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)))
        .with_context(|| format!("prepare {}", path.display()))
}

/// `key=path` in quotes that keep commas.
fn field(key: &str, path: &Path) -> String {
    let text = format!("{key}={}", path.display());
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// What the options `--secret id=…,src=FILE|env=NAME` say of a secret.
fn secret(options: &[String], id: &str) -> Result<Option<Vec<u8>>> {
    for option in options {
        let (mut name, mut source, mut variable) = (None, None, None);
        for part in option.split(',') {
            match part.split_once('=') {
                Some(("id", value)) => name = Some(value),
                Some(("src" | "source", value)) => source = Some(value),
                Some(("env", value)) => variable = Some(value),
                Some(("type", "file" | "env")) => {}
                _ => {
                    return Err(anyhow!("invalid --secret value '{option}'"))
                        .hint("as in --secret id=token,src=token.txt or id=token,env=TOKEN");
                }
            }
        }
        if name.or(source) != Some(id) {
            continue;
        }
        let content = match (source, variable) {
            (Some(path), _) => {
                Some(std::fs::read(path).with_context(|| format!("--secret: read {path}"))?)
            }
            (None, variable) => std::env::var(variable.unwrap_or(id))
                .ok()
                .map(String::into_bytes),
        };
        return Ok(content);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_by_id() {
        let options = [
            "id=a,src=/etc/hostname",
            "id=b,env=PATH",
            "id=c,env=NO_SUCH_VARIABLE",
        ];
        let options: Vec<String> = options.map(str::to_owned).to_vec();
        assert!(
            secret(&options, "b")
                .unwrap()
                .is_some_and(|path| !path.is_empty())
        );
        assert!(
            secret(&options, "c").unwrap().is_none() && secret(&options, "d").unwrap().is_none()
        );
        assert!(secret(&["id=a,src=/no/such/file".to_owned()], "a").is_err());
        assert!(secret(&["nonsense".to_owned()], "a").is_err());
    }

    #[test]
    fn commas_stay_in_their_field() {
        assert_eq!(field("source", Path::new("/a,\"b")), "\"source=/a,\"\"b\"");
    }
}
