//! `pull` and `push`, and the pulling that `run` and `create` do.

use super::cli::{self, Global};
use super::image::{Image, Limits, Pulled, Reference, Store, Transfer, Trust};
use super::platform::Platform;
use super::progress::Progress;
use super::state_dirs::State;
use super::{events, print, say};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Result, anyhow};
use std::io::IsTerminal;

/// `mydocker pull`
pub fn pull(state: &State, _: &Global, args: &cli::Pull) -> Result<i32> {
    let store = Store::open(&state.root).exit_code(1)?;
    let reference = Reference::parse(&args.image).exit_code(1)?;
    let (tell, progress) = telling(args.quiet);
    if reference.tag.is_none() && reference.digest.is_none() {
        tell("Using default tag: latest");
    }
    let wanted = match &reference.digest {
        Some(digest) => digest.as_str(),
        None => reference.tag_or_latest(),
    };
    tell(&format!("{wanted}: Pulling from {}", reference.path));
    let transfer = Transfer {
        platform: args.platform.as_ref(),
        trust: Trust::of(args.insecure.insecure),
        limits: args.unpacked.limits(),
        progress: &progress,
        tell: &tell,
    };
    let pulled = pull_one(state, &store, &reference, &transfer).exit_code(1)?;
    let name = full_name(&reference);
    if !args.quiet {
        pulled.notes.iter().for_each(|note| super::note(note));
        let short = reference.key();
        let status = match pulled.is_new {
            true => format!("Downloaded newer image for {short}"),
            false => format!("Image is up to date for {short}"),
        };
        print(&format!("Digest: {}\nStatus: {status}\n", pulled.digest))?;
    }
    say(&name).map(|()| 0)
}

fn pull_one(
    state: &State,
    store: &Store,
    reference: &Reference,
    transfer: &Transfer<'_>,
) -> Result<Pulled> {
    let pulled = store
        .pull(reference, transfer)
        .with_context(|| format!("pull {reference}"))?;
    events::of_image(state, "pull", &pulled.image.id, &reference.key());
    Ok(pulled)
}

/// Pulls what another verb needs. What there is to say goes to standard error: standard output is the
/// container's.
pub(super) fn pull_for(
    state: &State,
    store: &Store,
    name: &str,
    platform: Option<&Platform>,
    quiet: bool,
) -> Result<Image> {
    let reference = Reference::parse(name)?;
    let tell = |line: &str| {
        if !quiet {
            super::note(line);
        }
    };
    if store.find(name)?.is_none() {
        tell(&format!(
            "no image is called {name} here: it is pulled from {}",
            reference.domain
        ));
    }
    let transfer = Transfer {
        platform,
        trust: Trust::Loopback,
        limits: Limits::of(None),
        progress: &Progress::new(quiet),
        tell: &|_| {},
    };
    let pulled = pull_one(state, store, &reference, &transfer)?;
    pulled.notes.iter().for_each(|note| tell(note));
    if pulled.is_new {
        tell(&format!("pulled {}, {}", reference, pulled.digest));
    }
    Ok(pulled.image)
}

/// `mydocker push`
pub fn push(state: &State, _: &Global, args: &cli::Push) -> Result<i32> {
    let store = Store::open(&state.root).exit_code(1)?;
    let reference = Reference::parse(&args.image).exit_code(1)?;
    if reference.digest.is_some() || (args.all_tags && reference.tag.is_some()) {
        let error = anyhow!("push {}: only names are pushed", args.image);
        let hint = "give NAME:TAG, or -a and a NAME for all its tags";
        return Err(with_exit_code(with_hint(error, hint), 1));
    }
    let names = match args.all_tags {
        true => tags_of(&store, &reference)?,
        false => vec![reference.clone()],
    };
    for name in &names {
        store.get(&name.key()).exit_code(1)?;
    }
    let (tell, progress) = telling(args.quiet);
    let whole = format!("{}/{}", reference.domain, reference.path);
    tell(&format!("The push refers to repository [{whole}]"));
    if reference.tag.is_none() && !args.all_tags {
        tell("Using default tag: latest");
    }
    let transfer = Transfer {
        platform: None,
        trust: Trust::of(args.insecure.insecure),
        limits: Limits::of(None),
        progress: &progress,
        tell: &tell,
    };
    for name in names {
        let pushed = store
            .push(&name, &transfer)
            .with_context(|| format!("push {name}"))
            .exit_code(1)?;
        events::of_image(state, "push", &pushed.id, &name.key());
        let tag = name.tag_or_latest();
        match args.quiet {
            true => say(&pushed.digest)?,
            false => say(&format!(
                "{tag}: digest: {} size: {}",
                pushed.digest, pushed.size
            ))?,
        }
    }
    Ok(0)
}

/// All names with the repository of this one.
fn tags_of(store: &Store, reference: &Reference) -> Result<Vec<Reference>> {
    let images = store.list().exit_code(1)?;
    let names = images.iter().flat_map(|image| &image.names);
    let mut names: Vec<Reference> = names
        .filter_map(|name| Reference::parse(name).ok())
        .filter(|name| name.digest.is_none() && name.repository() == reference.repository())
        .collect();
    names.sort_by(|a, b| a.tag.cmp(&b.tag));
    if names.is_empty() {
        let error = anyhow!("no image is called {}", reference.repository());
        return Err(with_exit_code(
            with_hint(error, "`mydocker images` lists them"),
            1,
        ));
    }
    Ok(names)
}

/// How it is told what happens: by bars on a terminal, else by Docker's lines on standard output.
fn telling(quiet: bool) -> (impl Fn(&str) + Sync, Progress) {
    let has_bars = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    let shown = !(quiet || has_bars);
    let tell = move |line: &str| {
        if shown {
            let _ = say(line);
        }
    };
    (tell, Progress::new(quiet || shown))
}

/// `docker.io/library/busybox:latest`
fn full_name(reference: &Reference) -> String {
    let name = format!("{}/{}", reference.domain, reference.path);
    match &reference.digest {
        Some(digest) => format!("{name}@{digest}"),
        None => format!("{name}:{}", reference.tag_or_latest()),
    }
}
