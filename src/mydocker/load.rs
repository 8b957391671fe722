//! `load` and `save`: images as archives.

use super::cli::{Global, Load, Save};
use super::image::{Image, Parcel, Reference, Store, write_archive};
use super::output::to_file;
use super::platform::Platform;
use super::progress::Progress;
use super::run::is_terminal;
use super::state_dirs::State;
use super::{events, print};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Result, anyhow};
use std::io::{BufWriter, Write};
use std::path::Path;

/// `mydocker load`
pub fn load(state: &State, _: &Global, args: &Load) -> Result<i32> {
    if args.input.is_none() && is_terminal(0) {
        let error = anyhow!("load: standard input is a terminal");
        let hint = "mydocker load -i FILE, or mydocker load < FILE";
        return Err(with_exit_code(with_hint(error, hint), 1));
    }
    let progress = Progress::new(args.quiet);
    let input = args.input.as_deref().filter(|path| *path != Path::new("-"));
    let name = || match input {
        Some(path) => format!("load {}", path.display()),
        None => "load from standard input".to_owned(),
    };
    let limits = args.unpacked.limits();
    let loaded = Store::open(&state.root)
        .and_then(|store| store.load_archive(input, args.platform.as_ref(), limits, &progress))
        .with_context(name)
        .fallback_hint(
            "nothing was loaded; it takes what `save` of mydocker, Docker or Podman writes",
        )
        .exit_code(1)?;
    drop(progress);
    let mut text = String::new();
    for one in &loaded {
        for note in &one.notes {
            super::note(note);
        }
        let (id, names) = (&one.image.id, &one.names);
        match names.is_empty() {
            true => text += &format!("Loaded image ID: {id}\n"),
            false => names
                .iter()
                .for_each(|name| text += &format!("Loaded image: {name}\n")),
        }
        events::of_image(state, "load", id, names.first().map_or("", String::as_str));
    }
    print(&text)
}

/// `mydocker save`
pub fn save(state: &State, _: &Global, args: &Save) -> Result<i32> {
    if args.output.is_none() && is_terminal(1) {
        let error = anyhow!("save: standard output is a terminal");
        let hint = "mydocker save -o FILE IMAGE, or mydocker save IMAGE > FILE";
        return Err(with_exit_code(with_hint(error, hint), 1));
    }
    let progress = Progress::new(args.quiet);
    let write = || -> Result<()> {
        let store = Store::open(&state.root)?;
        let mut parcels: Vec<Parcel<'_>> = Vec::new();
        for word in &args.images {
            for (image, names) in chosen(&store, word)? {
                Platform::check(args.platform.as_ref(), &image.platform(), word)?;
                let same = |known: &&mut Parcel<'_>| known.0.image().digest == image.digest;
                match parcels.iter_mut().find(same) {
                    Some((_, known)) => known.extend(names),
                    None => parcels.push((store.outgoing(&image)?, names)),
                }
            }
        }
        for (out, names) in &mut parcels {
            let mut seen = std::collections::BTreeSet::new();
            names.retain(|name| seen.insert(name.key()));
            if let Some(with) = args.compress {
                out.compress(with, &progress)?;
            }
        }
        let all = |to: &mut dyn Write| write_archive(&parcels, to, &progress);
        match &args.output {
            Some(path) => to_file(path, all).with_context(|| format!("write {}", path.display())),
            None => {
                let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
                all(&mut out)
            }
        }
    };
    write()
        .context("save")
        .fallback_hint("mydocker save -o FILE IMAGE…")
        .exit_code(1)?;
    Ok(0)
}

/// The images that a word stands for, with the names they are to be saved with: a repository stands
/// for all its tags, an id for an image without a name.
fn chosen(store: &Store, word: &str) -> Result<Vec<(Image, Vec<Reference>)>> {
    let reference = Reference::parse(word).ok();
    let image = store.find(word)?;
    let Some(reference) = reference else {
        let image = image.map_or_else(|| store.get(word), Ok)?;
        return Ok(vec![(image, Vec::new())]);
    };
    if reference.tag.is_none() && reference.digest.is_none() {
        let mut all = Vec::new();
        for image in store.list()? {
            for name in &image.names {
                let name = Reference::parse(name)?;
                if name.repository() == reference.repository() && name.digest.is_none() {
                    all.push((store.get(&name.key())?, vec![name]));
                }
            }
        }
        if !all.is_empty() {
            return Ok(all);
        }
    }
    let image = image.map_or_else(|| store.get(word), Ok)?;
    let named = image.names.contains(&reference.key()) && reference.digest.is_none();
    let names = named.then_some(reference).into_iter().collect();
    Ok(vec![(image, names)])
}
