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
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

/// The most bytes of a Dockerfile or a .dockerignore, which are kept in memory.
const LARGEST: u64 = 4 << 20;

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
    let root = Root::open(dir)?;
    let dockerfile = match file {
        Some(_) if stdin_is_file => Dockerfile::of_input(std::io::stdin().lock())?,
        Some(file) => Dockerfile::of_host(file, &root, dir)?,
        None => Dockerfile::usual(&root)?,
    };
    Context::of(root, dockerfile)
}

/// A Dockerfile with what is beside it.
struct Dockerfile {
    text: String,
    name: PathBuf,
    /// The text of `<Dockerfile>.dockerignore`, if there is one.
    ignore: Option<String>,
}

impl Dockerfile {
    fn of_input(input: impl Read) -> Result<Dockerfile> {
        Ok(Dockerfile {
            text: text(input).context("read the Dockerfile")?,
            name: "-".into(),
            ignore: None,
        })
    }

    /// One that the command line names, but not what is beside it: that may be of the context, which is in
    /// `dir`.
    fn of_host(path: &Path, root: &Root, dir: &Path) -> Result<Dockerfile> {
        let read = |path: &Path| {
            let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
            text(file).with_context(|| format!("read {}", path.display()))
        };
        let text = read(path).hint("-f names the Dockerfile")?;
        let ignore = own_ignore(path);
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        let above = above.unwrap_or(Path::new(".")).canonicalize();
        let above = above.with_context(|| format!("look at {}", path.display()))?;
        let dir = dir.canonicalize().context("look at the context")?;
        let ignore = match (above.strip_prefix(&dir), ignore.file_name()) {
            (Ok(below), Some(name)) => text_of(root, &below.join(name))?,
            _ => ignore.is_file().then(|| read(&ignore)).transpose()?,
        };
        Ok(Dockerfile {
            text,
            name: path.to_owned(),
            ignore,
        })
    }

    /// One of the context.
    fn of_context(root: &Root, path: &Path) -> Result<Option<Dockerfile>> {
        let Some(text) = text_of(root, path)? else {
            return Ok(None);
        };
        Ok(Some(Dockerfile {
            text,
            name: path.to_owned(),
            ignore: text_of(root, &own_ignore(path))?,
        }))
    }

    /// `Dockerfile` of the context, in either case.
    fn usual(root: &Root) -> Result<Dockerfile> {
        for name in ["Dockerfile", "dockerfile"] {
            if let Some(found) = Dockerfile::of_context(root, Path::new(name))? {
                return Ok(found);
            }
        }
        Err(anyhow!("there is no Dockerfile in the context"))
            .hint("-f names another; links that lead out of the context lead to nothing")
    }
}

fn own_ignore(dockerfile: &Path) -> PathBuf {
    let mut name = dockerfile.as_os_str().to_owned();
    name.push(".dockerignore");
    PathBuf::from(name)
}

/// The text of a file of the context, if it is there. Links lead to files of the context only: who
/// made it has not been asked what the host's files say, nor to open its devices.
fn text_of(root: &Root, path: &Path) -> Result<Option<String>> {
    let what = || format!("{} of the context", path.display());
    let found = match root.resolve(path) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        found => found.with_context(what)?,
    };
    let found = fds::path(&found);
    let is_file = found.metadata().with_context(what)?.is_file();
    ensure!(is_file, "{} is not a regular file", what());
    let file = File::open(&found).with_context(what)?;
    text(file).with_context(what).map(Some)
}

fn text(from: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(LARGEST + 1).read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= LARGEST,
        "it is larger than {LARGEST} bytes"
    );
    String::from_utf8(bytes).context("it is not text")
}

/// Standard input: an archive, plain or gzip-compressed, or a Dockerfile that needs no context.
fn from_input(file: Option<&Path>, draft: &Draft, progress: &Progress) -> Result<Context> {
    let mut input = std::io::stdin().lock();
    let mut start = Vec::new();
    let read = input.by_ref().take(512).read_to_end(&mut start);
    read.context("read standard input")?;
    let is_tar = start.get(257..262) == Some(b"ustar");
    let is_archive = is_tar || is_compressed(&start);
    let whole = Cursor::new(start).chain(input);
    if !is_archive {
        return Ok(Context {
            root: None,
            ignore: Ignore::default(),
            text: text(whole).context("read the Dockerfile")?,
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
    let dockerfile = match file {
        None => Dockerfile::usual(&root)?,
        Some(file) => Dockerfile::of_context(&root, file)?
            .with_context(|| format!("there is no {} in the context", file.display()))?,
    };
    Context::of(root, dockerfile)
}

impl Context {
    /// Without what the Dockerfile's own .dockerignore leaves out, or else the context's.
    fn of(root: Root, dockerfile: Dockerfile) -> Result<Context> {
        let name = &dockerfile.name;
        let name = name.file_name().unwrap_or(name.as_os_str());
        let ignore = match dockerfile.ignore {
            Some(text) => Some(text),
            None => text_of(&root, Path::new(".dockerignore"))?,
        };
        Ok(Context {
            root: Some(root),
            ignore: Ignore::parse(&ignore.unwrap_or_default())?,
            text: dockerfile.text,
            name: name.to_string_lossy().into_owned(),
        })
    }
}
