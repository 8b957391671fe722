//! What a build may copy from: a directory of the host, or an archive from standard input; and the
//! Dockerfile.

use super::pattern::Ignore;
use super::progress::Progress;
use crate::error::ResultExt;
use crate::linux::root::Root;
use crate::mydocker::copy::Copier;
use crate::mydocker::copy_tar;
use crate::mydocker::image::{Draft, bounded, is_compressed};
use crate::sys::fds;
use anyhow::{Context as _, Result, anyhow, bail};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

/// A context and a Dockerfile.
pub(super) struct Context {
    /// Without one there is nothing to copy from.
    pub(super) root: Option<Root>,
    pub(super) ignore: Ignore,
    /// The Dockerfile's text.
    pub(super) text: String,
    /// The Dockerfile as messages name it.
    pub(super) name: String,
}

/// Opens what the command line names. An archive is unpacked in the draft.
pub(super) fn open(
    path: &str,
    file: Option<&Path>,
    draft: &Draft,
    progress: &Progress,
) -> Result<Context> {
    let remote = [
        "http://",
        "https://",
        "git://",
        "ssh://",
        "git@",
        "github.com/",
    ];
    if remote.iter().any(|start| path.starts_with(start)) && !Path::new(path).exists() {
        return Err(anyhow!("{path}: only a directory or - can be built from"))
            .hint("fetch it first: curl or git clone");
    }
    let stdin_is_file = file == Some(Path::new("-"));
    if path == "-" {
        if stdin_is_file {
            bail!("standard input cannot be both the Dockerfile and the context");
        }
        return from_input(file, draft, progress);
    }
    let dir = Path::new(path);
    let is_dir = dir.metadata().with_context(|| format!("look at {path}"));
    if !is_dir
        .hint("build takes the directory with the Dockerfile")?
        .is_dir()
    {
        return Err(anyhow!("{path} is not a directory"))
            .hint("a Dockerfile of another name: mydocker build -f FILE DIR");
    }
    let (text, name) = match file {
        Some(_) if stdin_is_file => (text(&mut std::io::stdin().lock())?, "-".into()),
        Some(file) => (read(file)?, file.to_owned()),
        None => of_directory(dir)?,
    };
    Context::of(dir, text, &name)
}

/// `Dockerfile` of a directory, in either case.
fn of_directory(dir: &Path) -> Result<(String, PathBuf)> {
    let usual = dir.join("Dockerfile");
    let other = dir.join("dockerfile");
    let name = match !usual.exists() && other.exists() {
        true => other,
        false => usual,
    };
    Ok((read(&name)?, name))
}

fn read(path: &Path) -> Result<String> {
    let mut file = File::open(path)
        .with_context(|| format!("open {}", path.display()))
        .hint("-f names the Dockerfile")?;
    text(&mut file).with_context(|| format!("read {}", path.display()))
}

fn text(from: &mut impl Read) -> Result<String> {
    let mut text = String::new();
    from.read_to_string(&mut text)
        .context("read the Dockerfile")?;
    Ok(text)
}

/// Standard input: an archive, plain or gzip-compressed, or a Dockerfile that needs no context.
fn from_input(file: Option<&Path>, draft: &Draft, progress: &Progress) -> Result<Context> {
    let mut input = std::io::stdin().lock();
    let mut start = Vec::new();
    let read = input.by_ref().take(512).read_to_end(&mut start);
    read.context("read standard input")?;
    let is_tar = start.get(257..262) == Some(b"ustar");
    let is_archive = is_tar || is_compressed(&start);
    let mut whole = Cursor::new(start).chain(input);
    if !is_archive {
        return Ok(Context {
            root: None,
            ignore: Ignore::default(),
            text: text(&mut whole)?,
            name: "Dockerfile".to_owned(),
        });
    }
    let dir = draft.path().join("context");
    std::fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    let root = Root::open(&dir)?;
    let unpack = |from: &mut dyn Read| {
        copy_tar::read(
            &mut Copier::replacing(false),
            from,
            &root,
            Path::new("/"),
            None,
        )
    };
    let notes = bounded(whole, unpack)
        .context("unpack the context")
        .hint("tar archives are read plain, and compressed by gzip or zstd")?;
    notes.iter().for_each(|note| progress.say(note));
    let (text, name) = match file {
        None => of_directory(&dir)?,
        Some(file) => {
            let found = root.resolve(file);
            let found = found.with_context(|| format!("{} of the context", file.display()))?;
            let path = fds::path(&found);
            (read_as(&path, file)?, dir.join(file))
        }
    };
    Context::of(&dir, text, &name)
}

fn read_as(path: &Path, name: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", name.display()))?;
    text(&mut file).with_context(|| format!("read {}", name.display()))
}

impl Context {
    fn of(dir: &Path, text: String, dockerfile: &Path) -> Result<Context> {
        let name = dockerfile.file_name().unwrap_or(dockerfile.as_os_str());
        Ok(Context {
            root: Some(Root::open(dir)?),
            ignore: ignore(dir, dockerfile)?,
            text,
            name: name.to_string_lossy().into_owned(),
        })
    }
}

/// `<Dockerfile>.dockerignore`, else the context's.
fn ignore(dir: &Path, dockerfile: &Path) -> Result<Ignore> {
    let mut own = dockerfile.as_os_str().to_owned();
    own.push(".dockerignore");
    for path in [PathBuf::from(own), dir.join(".dockerignore")] {
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ignore::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
    Ok(Ignore::default())
}
