//! `build`: an image by a Dockerfile. What is there is read first (the language is in
//! `../dockerfile/`; `plan.rs`), without changing anything. Then `stage.rs` carries out one instruction after the other:
//! RUN in a container (`run.rs`), COPY, ADD and WORKDIR in a mounted view of the image (`copy.rs`).
//! What each of them has written becomes a layer of the store, kept under a key that says what it was
//! made of, so that the next build finds it; the rest changes the configuration.

mod context;
mod copy;
mod mount;
mod mounted;
mod pattern;
mod plan;
mod progress;
mod run;
mod stage;
mod tree;
mod view;

use super::cli::{Build, Global};
use super::dockerfile::{self, Setting};
use super::image::{Reference, Store};
use super::signals::Interrupted;
use super::state_dirs::State;
use super::umask::write_for_caller;
use crate::error::ResultExt;
use anyhow::{Context, Result, anyhow, ensure};
use plan::Plan;
use progress::Progress;
use stage::Builder;
use time::OffsetDateTime;

/// `mydocker build`
pub fn build(state: &State, global: &Global, args: &Build) -> Result<i32> {
    let done = carry_out(state, global, args).context("build");
    match done.as_ref().map_err(anyhow::Error::downcast_ref) {
        Err(Some(Interrupted(signal))) => {
            let code = 128 + signal;
            done.exit_code(code)
        }
        _ => done
            .fallback_hint("`mydocker build --help` tells how it is used")
            .exit_code(1),
    }
}

fn carry_out(state: &State, global: &Global, args: &Build) -> Result<i32> {
    let names = names(&args.tag)?;
    let build_args = plan::build_args(&args.build_arg)?;
    supported(args)?;
    let store = Store::open(&state.root)?;
    let draft = store.draft()?;
    let progress = Progress::new(args.is_quiet());
    let context = context::open(&args.context, args.file.as_deref(), &draft, &progress)?;
    let plan = Plan::new(&context.text, &build_args, args.target.as_deref());
    let plan = plan.with_context(|| context.name.clone())?;
    let mut builder = Builder {
        state,
        store: &store,
        global,
        args,
        plan: &plan,
        context: &context,
        epoch: epoch(build_args.get("SOURCE_DATE_EPOCH"))?,
        build_args,
        used_args: Default::default(),
        draft: &draft,
        progress,
        built: vec![None; plan.stages.len()],
        stage_args: vec![Default::default(); plan.stages.len()],
        images: Default::default(),
        dates: Default::default(),
    };
    let mut parts = builder
        .stage(plan.target)
        .with_context(|| context.name.clone())?;
    ensure!(
        !parts.layers.is_empty(),
        "the image would have no files: COPY something"
    );
    let labels = args.label.iter().map(|text| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text.clone(), String::new()),
    });
    if !args.label.is_empty() {
        dockerfile::set(&mut parts.config, Setting::Label(labels.collect()))?;
    }
    let image = store.publish_parts(&parts, names.clone())?;
    if let Err(error) = store.keep_dates(&builder.dates) {
        // The image is made. The next build's will be of another date.
        super::note(&crate::error::message(&error));
    }
    tell_unused(&builder);
    for name in &names {
        builder.progress.say(&format!("named {}", name.key()));
        super::events::of_image(state, "tag", &image.id, &name.key());
    }
    if let Some(path) = &args.iidfile {
        write_for_caller(path, &image.id)
            .with_context(|| format!("--iidfile: write {}", path.display()))?;
    }
    super::say(&image.id).map(|()| 0)
}

/// The names of the new image.
fn names(texts: &[String]) -> Result<Vec<Reference>> {
    let each = |text: &String| -> Result<Reference> {
        let name = Reference::parse(text).with_context(|| format!("-t {text}"))?;
        ensure!(
            name.digest.is_none(),
            "-t {text}: a new image cannot be given a digest"
        );
        Ok(name)
    };
    texts.iter().map(each).collect()
}

/// What is known of Docker and not there yet is refused, never ignored.
fn supported(args: &Build) -> Result<()> {
    match args.network.as_deref() {
        None | Some("default" | "none" | "host") => {}
        Some(other) => {
            return Err(anyhow!("--network {other}: not supported yet"))
                .hint("there are default, none and host");
        }
    }
    if let Some(asked) = &args.platform {
        asked.check_machine()?;
    }
    Ok(())
}

/// Seconds since 1970.
fn epoch(text: Option<&String>) -> Result<Option<OffsetDateTime>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let time = text
        .parse()
        .ok()
        .and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    time.map(Some)
        .with_context(|| format!("SOURCE_DATE_EPOCH={text}: it is a number of seconds"))
}

fn tell_unused(builder: &Builder<'_>) {
    let names = builder.build_args.keys();
    let unused: Vec<&str> = names
        .map(String::as_str)
        .filter(|name| {
            !builder.used_args.contains(*name) && !builder.plan.globals.contains_key(*name)
        })
        .filter(|name| !run::is_proxy(name) && *name != "SOURCE_DATE_EPOCH")
        .collect();
    if !unused.is_empty() {
        super::note(&format!(
            "no ARG names what --build-arg gives: {}",
            unused.join(", ")
        ));
    }
}

/// Lets go of what builds keep for the next one: all of it, or what takes room, which what an image
/// shares does not.
pub(super) fn forget(state: &State, all: bool) -> Result<()> {
    let kept = state.root.join("build");
    if !kept.exists() {
        return Ok(());
    }
    Store::open(&state.root)?.forget_steps(all)?;
    mounted::forget_caches(&kept.join("caches"))?;
    // Unless something stays.
    let _ = std::fs::remove_dir(&kept);
    Ok(())
}
