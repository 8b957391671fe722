//! Making an image of a tar archive or a directory.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;
use time::OffsetDateTime;

use super::author::{self, Note};
use super::draft::Draft;
use super::layer::{Blob, BlobWriter, LayerWriter, Tee};
use super::publish::NewLayer;
use super::unpack::unpack;
use super::{Made, Reference, Store};
use crate::error::ResultExt;

/// Where the files come from.
pub enum Source {
    /// An archive, plain or gzip-compressed, read to its end.
    Archive(Box<dyn Read>),
    /// A directory of the host.
    Directory(PathBuf),
}

impl Source {
    /// What the command line's `FILE|DIR|-` stands for.
    pub fn open(path: &Path) -> Result<Source> {
        if path == Path::new("-") {
            return Ok(Source::Archive(Box::new(std::io::stdin().lock())));
        }
        let text = path.to_string_lossy();
        if text.starts_with("http://") || text.starts_with("https://") {
            return Err(anyhow::anyhow!("importing from a URL is not supported yet"))
                .hint(format!("curl -fsSL {text} | mydocker import - NAME"));
        }
        let open = || format!("open {}", path.display());
        let file = File::open(path).with_context(open)?;
        if file.metadata().with_context(open)?.is_dir() {
            return Ok(Source::Directory(path.to_owned()));
        }
        Ok(Source::Archive(Box::new(file)))
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
        for change in &options.changes {
            author::apply(&mut config, change)?;
        }
        let draft = Draft::new(&self.drafts())?;
        let blob = BlobWriter::create(&draft.path().join("blob"))?;
        let (layer, notes) = match source {
            Source::Archive(from) => from_archive(from, blob, &draft)?,
            Source::Directory(dir) => from_directory(&dir, blob, &draft)?,
        };
        let message = options.message.as_deref();
        let note = Note {
            created_by: "mydocker import",
            message,
            author: None,
        };
        let created = options.created.unwrap_or_else(OffsetDateTime::now_utc);
        author::add_layer(
            &mut config,
            &format!("sha256:{}", layer.blob.hex),
            created,
            &note,
        )?;
        let config = serde_json::to_vec(&config)?;
        let image = self.publish(&draft, Vec::new(), layer, &config, name.as_ref())?;
        Ok(Made { image, notes })
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

fn from_archive(
    from: Box<dyn Read>,
    blob: BlobWriter,
    draft: &Draft,
) -> Result<(NewLayer, Vec<String>)> {
    let dir = layer_dir(draft)?;
    let mut tee = Tee {
        from: decompressed(from)?,
        blob,
    };
    let unpacked = unpack(&mut tee, &dir);
    // When the blob cannot be stored, reading fails too, and says less.
    let (notes, count, blob) = match (unpacked, tee.blob.finish()) {
        (Ok((notes, count)), Ok(blob)) => (notes, count, blob),
        (_, Err(error)) | (Err(error), _) => return Err(error),
    };
    if count == 0 {
        return Err(anyhow::anyhow!("the archive is empty")).hint("an image needs files to run");
    }
    Ok((NewLayer { blob, dir }, notes))
}

fn from_directory(dir: &Path, blob: BlobWriter, draft: &Draft) -> Result<(NewLayer, Vec<String>)> {
    let mut writer = LayerWriter::new(blob);
    add_tree(&mut writer, dir, Path::new(""))?;
    let (blob, mut notes) = writer.finish()?;
    let (layer, more) = from_blob(blob.finish()?, draft)?;
    notes.extend(more);
    Ok((layer, notes))
}

/// Unpacks an archive that this program wrote: what it gives is what any other user of the image
/// will get.
pub(super) fn from_blob(blob: Blob, draft: &Draft) -> Result<(NewLayer, Vec<String>)> {
    let dir = layer_dir(draft)?;
    let file = File::open(&blob.path).with_context(|| format!("open {}", blob.path.display()))?;
    let (notes, _) = unpack(BufReader::with_capacity(256 << 10, file), &dir)?;
    Ok((NewLayer { blob, dir }, notes))
}

fn layer_dir(draft: &Draft) -> Result<PathBuf> {
    let dir = draft.path().join("layer");
    std::fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}

fn add_tree(writer: &mut LayerWriter<BlobWriter>, dir: &Path, path: &Path) -> Result<()> {
    let from = dir.join(path);
    let meta = if path.as_os_str().is_empty() {
        dir.metadata()
    } else {
        from.symlink_metadata()
    };
    let meta = meta.with_context(|| format!("look at {}", from.display()))?;
    writer.add(path, &from, &meta)?;
    if !meta.is_dir() {
        return Ok(());
    }
    let names: std::io::Result<Vec<_>> = std::fs::read_dir(&from)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.file_name())).collect());
    let mut names = names.with_context(|| format!("list {}", from.display()))?;
    names.sort();
    names
        .iter()
        .try_for_each(|name| add_tree(writer, dir, &path.join(name)))
}

/// The archive without its compression, known by its first bytes.
fn decompressed(mut from: Box<dyn Read>) -> Result<Box<dyn Read>> {
    let mut start = [0u8; 6];
    let mut len = 0;
    while len < start.len() {
        match from.read(&mut start[len..]).context("read the archive")? {
            0 => break,
            n => len += n,
        }
    }
    let other = match &start[..len] {
        [0x1f, 0x8b, ..] => {
            let whole = std::io::Cursor::new(start).take(len as u64).chain(from);
            let whole = BufReader::with_capacity(256 << 10, whole);
            return Ok(Box::new(MultiGzDecoder::new(whole)));
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz",
        [b'B', b'Z', b'h', ..] => "bzip2",
        _ => {
            let whole = std::io::Cursor::new(start).take(len as u64).chain(from);
            return Ok(Box::new(BufReader::with_capacity(256 << 10, whole)));
        }
    };
    Err(anyhow::anyhow!(
        "the archive is {other}-compressed, which is not supported yet"
    ))
    .hint(format!("{other} -dc FILE | mydocker import - NAME"))
}
