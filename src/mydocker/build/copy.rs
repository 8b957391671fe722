//! COPY, ADD and WORKDIR: what comes into the image without a program that makes it.

use super::context::Context;
use super::mount;
use super::pattern::{Ignore, Pattern, is_pattern};
use super::plan::Step;
use super::stage::{Builder, Key, Work};
use super::tree::{Change, Source, Tree, make_dirs};
use super::view::View;
use crate::error::ResultExt;
use crate::linux::root::Root;
use crate::mydocker::copy::{Content, Copier, Meta, Node};
use crate::mydocker::copy_tar;
use crate::mydocker::dockerfile::instruction;
use crate::mydocker::dockerfile::lines::Heredoc;
use crate::mydocker::image::{self, Draft, bounded, decompressed};
use crate::mydocker::process;
use crate::mydocker::remove_tree::remove_tree;
use crate::mydocker::sha256::Sha256;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::stat::SFlag;
use nix::sys::time::TimeSpec;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Cursor, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

/// Carries out COPY or ADD.
pub(super) fn copy(
    builder: &mut Builder<'_>,
    work: &mut Work,
    step: &Step,
    copy: &instruction::Copy,
) -> Result<()> {
    let from = match &copy.from {
        None => None,
        Some(name) => Some(builder.source(work, name)?),
    };
    let from = from
        .map(|parts| View::open(builder.store, &parts))
        .transpose()?;
    let wish = Wish::new(builder, work, copy)?;
    let context = builder.context;
    let tree = tree(context, from.as_ref(), copy)?;
    let sources = wish.sources(&tree)?;
    let key = json!([
        "copy",
        work.below(),
        wish.to,
        wish.is_dir,
        wish.change.owner,
        wish.change.mode,
        wish.unpacks,
        wish.changes_archives,
        digests(&tree, &sources, &wish)?,
        wish.documents,
    ]);
    let make = |builder: &mut Builder<'_>, work: &Work, key: Key| {
        let mut view = View::open(builder.store, &work.parts)?;
        let notes = wish.carry_out(&tree, &sources, view.root()?, builder.draft)?;
        notes.iter().for_each(|note| builder.progress.say(note));
        let upper = view.close();
        keep(builder, work, key, &upper)
    };
    builder.layer(work, step, &step.line.text, &key, make)
}

/// Makes the working directory, if the image has none there.
pub(super) fn workdir(builder: &mut Builder<'_>, work: &mut Work, step: &Step) -> Result<()> {
    let dir = PathBuf::from(work.workdir());
    let key = json!(["workdir", work.below(), dir, work.user()]);
    let make = |builder: &mut Builder<'_>, work: &Work, key: Key| {
        let mut view = View::open(builder.store, &work.parts)?;
        let owner = match work.user() {
            "" => (0, 0),
            user => owner(builder, work, user)?,
        };
        make_dirs(view.root()?, &dir, owner)?;
        let upper = view.close();
        keep(builder, work, key, &upper)
    };
    builder.layer(work, step, &step.line.text, &key, make)
}

fn keep(builder: &Builder<'_>, work: &Work, key: Key, upper: &Path) -> Result<image::Step> {
    let (key_of, upper) = ((key.name.as_str(), builder.draft), (upper, None));
    let kept = builder
        .store
        .keep_step(key_of, &work.parts, upper, key.created)?;
    kept.1.iter().for_each(|note| builder.progress.say(note));
    Ok(kept.0)
}

/// What a COPY asks for, with its variables replaced.
struct Wish {
    sources: Vec<String>,
    /// Absolute.
    to: PathBuf,
    /// It names a directory: it ends in a slash.
    is_dir: bool,
    change: Change,
    /// Archives are unpacked.
    unpacks: bool,
    /// What is unpacked gets the owner and the mode too.
    changes_archives: bool,
    /// Here-documents: name and content.
    documents: Vec<(String, String)>,
}

impl Wish {
    fn new(builder: &Builder<'_>, work: &Work, copy: &instruction::Copy) -> Result<Wish> {
        let word = |text: &String| builder.replaced(work, text);
        let to = word(&copy.to)?;
        let is_dir = to.ends_with('/') || to.ends_with("/.") || to == "." || to.is_empty();
        let owner = match copy.chown.as_ref().map(word).transpose()? {
            Some(text) => {
                let owner = owner(builder, work, &text);
                Some(owner.with_context(|| format!("--chown={text}"))?)
            }
            None => copy.from.is_none().then_some((0, 0)),
        };
        let mode = copy.chmod.as_ref().map(word).transpose()?;
        let document = |doc: &Heredoc| -> Result<(String, String)> {
            let text = match doc.expand {
                true => builder.with(work, |with| with.document(&doc.text()))?,
                false => doc.text(),
            };
            Ok((doc.name.clone(), text))
        };
        let wish = Wish {
            sources: copy.sources.iter().map(word).collect::<Result<_>>()?,
            to: inside(&Path::new(work.workdir()).join(&to)),
            is_dir,
            change: Change {
                owner,
                mode: mode
                    .map(|text| mount::mode(&text))
                    .transpose()
                    .context("--chmod")?,
            },
            unpacks: copy.is_add && !copy.keeps_archives,
            changes_archives: copy.chown.is_some() || copy.chmod.is_some(),
            documents: copy.heredocs.iter().map(document).collect::<Result<_>>()?,
        };
        ensure!(
            is_dir || wish.sources.len() + wish.documents.len() == 1,
            "several files go into a directory, whose name ends in a slash: {to}/"
        );
        Ok(wish)
    }

    /// The files that are meant.
    fn sources(&self, tree: &Tree<'_>) -> Result<Vec<Source>> {
        let mut all = Vec::new();
        for text in &self.sources {
            let remote = ["http://", "https://", "git@", "git://", "ssh://"];
            if remote.iter().any(|start| text.starts_with(start)) {
                return Err(anyhow!("{text}: nothing is fetched yet"))
                    .hint("fetch it into the context first");
            }
            let path = clean(Path::new(text))
                .with_context(|| format!("{text}: it leads out of what is copied from"))?;
            match is_pattern(text) {
                true => all.extend(matching(tree, &path)?),
                false => all.push(tree.find(&path)?.with_context(|| format!("{text}: not found")).hint(
                    "sources are relative to the context, and .dockerignore may exclude them",
                )?),
            }
        }
        ensure!(
            self.is_dir || all.len() + self.documents.len() <= 1,
            "several files go into a directory, whose name ends in a slash"
        );
        Ok(all)
    }

    /// Returns what could not be kept, a line each.
    fn carry_out(
        &self,
        tree: &Tree<'_>,
        sources: &[Source],
        root: &Root,
        draft: &Draft,
    ) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let owner = self.change.owner.unwrap_or((0, 0));
        for source in sources {
            if source.is_dir {
                let dir = make_dirs(root, &self.to, owner)?;
                tree.copy_entries(source, &self.change, dir.as_fd())?;
                continue;
            }
            if let Some(archive) = self.archive(tree, source)? {
                let unpacked = self.unpack(archive, root, draft);
                let what = || format!("unpack {}", source.path.display());
                notes.extend(unpacked.with_context(what)?);
                continue;
            }
            let name = source.path.file_name().context("a file without a name")?;
            self.place(root, name, |dir, name| {
                tree.copy(source, &self.change, dir, name)
            })?;
        }
        for (name, text) in &self.documents {
            let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)?;
            let meta = Meta {
                mode: self.change.mode.unwrap_or(0o644),
                owner,
                modified: TimeSpec::new(now.tv_sec(), now.tv_nsec()),
            };
            self.place(root, OsStr::new(name), |dir, name| {
                let mut content = Cursor::new(text);
                let content = Content::Bytes(&mut content);
                Copier::new(true).put(dir, name, &meta, content)
            })?;
        }
        Ok(notes)
    }

    /// Puts a file where it belongs: into the directory that is meant or there, or under this name.
    fn place(
        &self,
        root: &Root,
        name: &OsStr,
        put: impl FnOnce(BorrowedFd<'_>, &OsStr) -> Result<()>,
    ) -> Result<()> {
        let owner = self.change.owner.unwrap_or((0, 0));
        let is_there = |fd| Node::new(fd).is_ok_and(|node| node.is_dir());
        if self.is_dir || root.resolve(&self.to).is_ok_and(is_there) {
            let dir = make_dirs(root, &self.to, owner)?;
            return put(dir.as_fd(), name);
        }
        // As BuildKit: what a link points to is replaced, not the link.
        let to = followed(root, &self.to)?;
        let parent = to.parent().unwrap_or(Path::new("/"));
        let dir = make_dirs(root, parent, owner)?;
        let name = to.file_name().context("it would replace the root")?;
        put(dir.as_fd(), name)
    }

    /// The archive that a file is, for ADD, with its compression.
    fn archive(&self, tree: &Tree<'_>, source: &Source) -> Result<Option<File>> {
        if !self.unpacks {
            return Ok(None);
        }
        let node = tree.open(source)?;
        if node.kind() != SFlag::S_IFREG {
            return Ok(None);
        }
        let mut start = Vec::new();
        node.open()?.take(6).read_to_end(&mut start)?;
        if [&b"\xfd7zXZ\0"[..], b"BZh"]
            .iter()
            .any(|magic| start.starts_with(magic))
        {
            let error = anyhow!(
                "{}: its compression is not supported",
                source.path.display()
            );
            return Err(error).hint("gzip and zstd are; COPY takes it as it is");
        }
        start.clear();
        // One that is damaged is no archive, and copied as it is.
        let _ = decompressed(node.open()?)?
            .take(512)
            .read_to_end(&mut start);
        let is_archive = start.get(257..262) == Some(b"ustar".as_slice());
        is_archive.then(|| node.open()).transpose()
    }

    fn unpack(&self, archive: File, root: &Root, draft: &Draft) -> Result<Vec<String>> {
        let unpack = |root: &Root, to: &Path| {
            bounded(&archive, |from| {
                copy_tar::read(&mut Copier::replacing(true), from, root, to, None)
            })
        };
        let owner = self.change.owner.unwrap_or((0, 0));
        let dir = make_dirs(root, &self.to, owner)?;
        if !self.changes_archives {
            return unpack(root, &self.to);
        }
        let path = draft.path().join("unpacked");
        std::fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        let unpacked = Root::open(&path)?;
        let notes = unpack(&unpacked, Path::new("/"))?;
        let tree = Tree {
            root: Some(&unpacked),
            ignore: None,
            exclude: Ignore::default(),
        };
        let all = tree
            .find(Path::new(""))?
            .context("what was unpacked is gone")?;
        tree.copy_entries(&all, &self.change, dir.as_fd())?;
        remove_tree(&path).with_context(|| format!("remove {}", path.display()))?;
        Ok(notes)
    }
}

/// What is copied from, without what is left out.
fn tree<'a>(
    context: &'a Context,
    from: Option<&'a View>,
    copy: &instruction::Copy,
) -> Result<Tree<'a>> {
    let exclude = Ignore::parse(&copy.exclude.join("\n")).context("--exclude")?;
    let root = match from {
        Some(view) => Some(view.root()?),
        None => context.root.as_ref(),
    };
    Ok(Tree {
        root,
        ignore: from.is_none().then_some(&context.ignore),
        exclude,
    })
}

/// A digest of each source, with the name that counts.
fn digests(tree: &Tree<'_>, sources: &[Source], wish: &Wish) -> Result<Vec<Value>> {
    let each = |source: &Source| -> Result<Value> {
        let mut digest = Sha256::new();
        tree.digest(source, &wish.change, &mut digest)?;
        let name = source.path.file_name().filter(|_| !source.is_dir);
        Ok(json!([name, digest.finish()]))
    };
    sources.iter().map(each).collect()
}

/// What fits a pattern, part by part.
fn matching(tree: &Tree<'_>, pattern: &Path) -> Result<Vec<Source>> {
    let mut paths = vec![PathBuf::new()];
    for part in pattern {
        let part = part.to_string_lossy();
        let fits = Pattern::of_name(&part)?;
        let mut next = Vec::new();
        for path in paths {
            match is_pattern(&part) {
                false => next.push(path.join(&*part)),
                true => next.extend(
                    tree.names(&path)?
                        .into_iter()
                        .filter(|name| fits.fits(&name.to_string_lossy()))
                        .map(|name| path.join(name)),
                ),
            }
        }
        paths = next;
    }
    let by_name = pattern
        .file_name()
        .is_some_and(|name| !is_pattern(&name.to_string_lossy()));
    let mut found = Vec::new();
    for path in paths {
        match tree.find(&path)? {
            Some(source) => found.push(source),
            // Not every directory that fits has such a file.
            None if by_name => {}
            None => bail!("{}: a symbolic link to nothing", path.display()),
        }
    }
    Ok(found)
}

/// The path of an image that words lead to: what is above the root is the root.
fn inside(path: &Path) -> PathBuf {
    let mut inside = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => inside.push(name),
            Component::ParentDir => drop(inside.pop()),
            _ => {}
        }
    }
    inside
}

/// Where the symbolic links lead that stand at the end of a path of an image.
fn followed(root: &Root, path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    // As many as the kernel follows.
    for _ in 0..40 {
        let above = path.parent().unwrap_or(Path::new("/")).to_owned();
        let (Ok(dir), Some(name)) = (root.resolve(&above), path.file_name()) else {
            return Ok(path);
        };
        match Node::child(dir.as_fd(), name) {
            Ok(node) if node.kind() == SFlag::S_IFLNK => {
                path = inside(&above.join(node.link()?));
            }
            _ => return Ok(path),
        }
    }
    bail!("{}: too many symbolic links", path.display())
}

/// A path by its words alone, without a slash in front. `None`: it leads out.
fn clean(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir if !clean.pop() => return None,
            _ => {}
        }
    }
    Some(clean)
}

/// `USER[:GROUP]` by the image's own files. A number alone is the group's too.
fn owner(builder: &Builder<'_>, work: &Work, text: &str) -> Result<(u32, u32)> {
    if let Ok(id) = text.parse() {
        return Ok((id, id));
    }
    let image = match work.parts.layers.is_empty() {
        true => None,
        false => Some(builder.store.image_of_parts(&work.parts)?),
    };
    let read = |path: &str| -> Result<String> {
        let bytes = image
            .as_ref()
            .map(|image| image.read_file(path))
            .transpose()?;
        let bytes = bytes.flatten().unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let user = process::user(text, &[], &read)?.checked(text, None)?;
    Ok((user.uid, user.gid))
}
