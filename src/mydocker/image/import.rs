//! Making an image of a tar archive or a directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use time::OffsetDateTime;

use super::super::dockerfile;
use super::super::progress::{Bar, Counted, Progress};
use super::author::{self, Note};
use super::blob::{Digester, Tee};
use super::compression::bounded;
use super::draft::Draft;
use super::intake::NewImage;
use super::layer::{LayerWriter, add_tree};
use super::manifest::{Descriptor, manifest, plain_layer};
use super::publish::NewLayer;
use super::transport::download;
use super::unpack::{Unpacked, unpack};
use super::{Image, Made, Reference, Store};
use crate::error::ResultExt;

/// Where the files come from.
pub enum Source {
    /// An archive, plain or gzip-compressed, read to its end.
    Archive(Box<dyn Read>),
    /// A directory of the host.
    Directory(PathBuf, Bar),
}

impl Source {
    /// What the command line's `FILE|DIR|URL|-` stands for.
    pub fn open(path: &Path, progress: &Progress) -> Result<Source> {
        if path == Path::new("-") {
            let bar = progress.bar("archive", "importing", None);
            let from = std::io::stdin().lock();
            return Ok(Source::Archive(Box::new(Counted { from, bar })));
        }
        let text = path.to_string_lossy();
        if text.starts_with("http://") || text.starts_with("https://") {
            let (from, size) = download(&text)?;
            let name = text.rsplit('/').next().unwrap_or(&text);
            let bar = progress.bar(name, "Downloading", size);
            return Ok(Source::Archive(Box::new(Counted { from, bar })));
        }
        let open = || format!("open {}", path.display());
        let from = File::open(path).with_context(open)?;
        let meta = from.metadata().with_context(open)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if meta.is_dir() {
            let bar = progress.bar(&name, "importing", None);
            return Ok(Source::Directory(path.to_owned(), bar));
        }
        let size = meta.is_file().then_some(meta.len());
        let bar = progress.bar(&name, "importing", size);
        Ok(Source::Archive(Box::new(Counted { from, bar })))
    }
}

/// What an import may say besides its source.
#[derive(Debug, Default)]
pub struct ImportOptions {
    /// `NAME[:TAG]`; without it the image is dangling and known by its id.
    pub name: Option<String>,
    /// Dockerfile instructions (`CMD ["sh"]`) applied to the configuration.
    pub changes: Vec<String>,
    /// The comment in the history.
    pub message: Option<String>,
    /// When it was made; now when not given.
    pub created: Option<OffsetDateTime>,
}

impl Store {
    /// Makes an image with one layer. On an error the store is as it was.
    pub fn import(&self, source: Source, options: &ImportOptions) -> Result<Made> {
        // Whatever can be told before reading the archive is told before.
        let name = new_name(options.name.as_deref())?;
        let mut config = author::blank();
        dockerfile::apply(&mut config, &options.changes)?;
        let draft = Draft::new(&self.drafts())?;
        let (layer, notes) = match source {
            Source::Archive(from) => from_archive(from, &draft)?,
            Source::Directory(dir, bar) => from_directory(&dir, bar, &draft)?,
        };
        let message = options.message.as_deref();
        let note = Note {
            created_by: "mydocker import",
            message,
            author: None,
        };
        let created = options.created.unwrap_or_else(OffsetDateTime::now_utc);
        let diff_id = layer.blob.digest();
        author::add_layer(&mut config, &diff_id, created, &note)?;
        let config = serde_json::to_vec(&config)?;
        let layers = [plain_layer(&diff_id, layer.blob.size)];
        let image = self.publish_one(&draft, layer, &layers, config, name)?;
        Ok(Made { image, notes })
    }
}

impl Store {
    /// Publishes an image of these layers, bottom first, the last of which is new.
    pub(super) fn publish_one(
        &self,
        draft: &Draft,
        new: NewLayer,
        layers: &[Descriptor],
        config: Vec<u8>,
        name: Option<Reference>,
    ) -> Result<Image> {
        let image = NewImage {
            manifest: manifest(&config, layers),
            config,
            names: name.into_iter().collect(),
        };
        let made = self.publish(draft, &[new], &[image])?.pop();
        made.context("the image that was just made is gone")
    }
}

/// Checks the name of an image to be made.
pub(super) fn new_name(name: Option<&str>) -> Result<Option<Reference>> {
    let Some(name) = name else {
        return Ok(None);
    };
    let reference = Reference::parse(name)?;
    if reference.digest.is_some() {
        bail!("{name:?}: a new image cannot be given a digest");
    }
    Ok(Some(reference))
}

fn from_archive(from: Box<dyn Read>, draft: &Draft) -> Result<(NewLayer, Vec<String>)> {
    let dir = layer_dir(draft)?;
    let path = draft.path().join("blob");
    let (unpacked, blob) = bounded(from, |from| {
        let mut tee = Tee {
            from,
            to: Digester::storing(&path)?,
        };
        let unpacked = unpack(&mut tee, &dir, None);
        // When the blob cannot be stored, reading fails too, and says less.
        match (unpacked, tee.to.finish()) {
            (Ok(unpacked), Ok(blob)) => Ok((unpacked, blob)),
            (_, Err(error)) | (Err(error), _) => Err(error),
        }
    })?;
    if unpacked.entries == 0 {
        return Err(anyhow!("the archive is empty")).hint("an image needs files to run");
    }
    Ok((NewLayer::plain(blob.at(path), dir), unpacked.notes))
}

fn from_directory(dir: &Path, bar: Bar, draft: &Draft) -> Result<(NewLayer, Vec<String>)> {
    let path = draft.path().join("blob");
    let to = Digester::storing(&path)?;
    let unpacking = Unpacking::start(to.follow()?, draft)?;
    let mut writer = LayerWriter::new(to).with_bar(bar);
    let tree = File::open(dir).with_context(|| format!("open {}", dir.display()))?;
    add_tree(&mut writer, tree.as_fd(), &check_name)?;
    let (blob, mut notes) = writer.finish()?;
    let blob = blob.finish()?.at(path);
    let (dir, more) = unpacking.finish()?;
    notes.extend(more);
    Ok((NewLayer::plain(blob, dir), notes))
}

/// A file of such a name would say in a layer that another one is gone (image-spec: layer.md).
fn check_name(name: &OsStr) -> Result<()> {
    match name.as_bytes().starts_with(b".wh.") {
        true => Err(anyhow!("its name would be a whiteout in an image"))
            .hint("leave it out, or give it another name"),
        false => Ok(()),
    }
}

/// A thread that unpacks an archive which this program is writing: what it gives is what any other
/// user of the image will get.
pub(super) struct Unpacking {
    dir: PathBuf,
    thread: Option<JoinHandle<Result<Unpacked>>>,
}

impl Unpacking {
    pub(super) fn start(from: impl Read + Send + 'static, draft: &Draft) -> Result<Unpacking> {
        let dir = layer_dir(draft)?;
        let to = dir.clone();
        let from = BufReader::with_capacity(256 << 10, from);
        Ok(Unpacking {
            thread: Some(std::thread::spawn(move || unpack(from, &to, None))),
            dir,
        })
    }

    /// The directory, and what could not be kept, a line each.
    pub(super) fn finish(mut self) -> Result<(PathBuf, Vec<String>)> {
        let unpacked = self.thread.take().map(JoinHandle::join);
        let Some(Ok(unpacked)) = unpacked else {
            bail!("the thread that unpacks the layer failed");
        };
        Ok((std::mem::take(&mut self.dir), unpacked?.notes))
    }
}

impl Drop for Unpacking {
    /// The draft is to be removed: nothing may be made in it any more.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn layer_dir(draft: &Draft) -> Result<PathBuf> {
    let dir = draft.path().join("layer");
    std::fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}
