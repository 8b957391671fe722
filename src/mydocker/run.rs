//! `run` and `create`.

use super::cli::{self, Commit, Global, PullWhen, Run};
use super::create::{self, Made, Wish};
use super::detach_keys::DetachKeys;
use super::foreign;
use super::image::{Image, Reference, Store};
use super::keep_id::KeepId;
use super::monitor;
use super::platform::Platform;
use super::process;
use super::progress::Progress;
use super::record;
use super::registry::pull_for;
use super::state_dirs::State;
use super::wires::Attached;
use crate::error::{ResultExt, with_exit_code, with_hint};
use crate::sys::fds;
use anyhow::{Result, anyhow};

/// What is run of which image (D1).
struct Choice {
    image: Image,
    name: String,
    command: Vec<String>,
}

/// The default image: `busybox`, or what `MYDOCKER_DEFAULT_IMAGE` says.
pub(super) fn default_image() -> String {
    std::env::var("MYDOCKER_DEFAULT_IMAGE")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "busybox".to_owned())
}

/// `mydocker run`
pub fn run(state: &State, global: &Global, flags: &Run) -> Result<i32> {
    if let Some(commit) = commit_alias(state, flags)? {
        return super::commit::commit(state, global, &commit);
    }
    let keys = DetachKeys::parse(&flags.detach_keys).exit_code(125)?;
    let Made {
        record,
        lock,
        monitor,
    } = make(state, global, flags, true)?;
    if let Some(monitor) = monitor {
        monitor.watch(state, &record, lock).or_else(exit_125)?;
        return super::say(&record.id).map(|()| 0);
    }
    let attached = Attached::new(flags.interactive, flags.sig_proxy, keys);
    monitor::foreground(state, record, lock, attached).or_else(exit_125)
}

/// `mydocker create`: as `run -d`, without the start.
pub fn create(state: &State, global: &Global, flags: &Run) -> Result<i32> {
    let made = make(state, global, flags, false)?;
    super::say(&made.record.id).map(|()| 0)
}

/// Makes the container that the flags and words describe. One in the foreground goes when it ends (D5).
fn make(state: &State, global: &Global, flags: &Run, is_run: bool) -> Result<Made> {
    check(flags, is_run)?;
    let keep_id = KeepId::of_flag(flags.userns.as_deref())?;
    let store = Store::open(&state.root).exit_code(125)?;
    let choice = choose(state, &store, flags)?;
    check_platform(&choice, flags)?;
    let progress = Progress::new(flags.quiet);
    let image = match &keep_id {
        None => store
            .unpack_layers(&choice.image, &progress)
            .map(|()| choice.image),
        Some(keep) => store.layers_for(&choice.image, keep, &progress),
    }
    .or_else(exit_125)?;
    process::check_command(&image, &choice.name, flags, &choice.command)?;
    let wish = Wish {
        image: &image,
        image_name: &choice.name,
        command: &choice.command,
        flags,
        keep_id,
        remove: flags.rm.unwrap_or(is_run && !flags.detach && !flags.keep),
        only_created: !is_run,
        in_background: is_run && flags.detach,
    };
    create::create(state, &store, global, &wish).or_else(exit_125)
}

/// What is made for another machine is not run silently.
fn check_platform(choice: &Choice, flags: &Run) -> Result<()> {
    let platform = choice.image.platform();
    let what = format!("the image {}", choice.name);
    Platform::check(flags.platform.as_ref(), &platform, &what).exit_code(125)?;
    let note = foreign_note(&choice.name, &choice.image).filter(|_| !flags.quiet);
    note.iter().for_each(|note| super::note(note));
    Ok(())
}

/// What there is to say of an image that this machine may not run.
pub(super) fn foreign_note(name: &str, image: &Image) -> Option<String> {
    let (machine, platform) = (Platform::of_machine(), image.platform());
    (!machine.suits(&platform))
        .then(|| format!("the image {name} is for {platform}, and this machine is {machine}"))
}

fn exit_125<T>(error: anyhow::Error) -> Result<T> {
    Err(match crate::error::exit_code(&error) {
        Some(_) => error,
        None => with_exit_code(error, 125),
    })
}

fn check(flags: &Run, is_run: bool) -> Result<()> {
    if let Some(asked) = &flags.platform {
        asked.check_machine().exit_code(125)?;
    }
    if flags.rm == Some(true) && flags.restart.is_some_and(|r| r != Default::default()) {
        let error = anyhow!("--rm and --restart do not go together");
        return Err(with_exit_code(
            with_hint(error, "leave out one of them"),
            125,
        ));
    }
    let in_front = is_run && !flags.detach;
    if in_front && flags.tty && flags.interactive && !is_terminal(0) {
        let error = anyhow!("-t: stdin is not a terminal");
        let hint = "leave out -t: with -i alone input comes from a pipe or a file";
        return Err(with_exit_code(with_hint(error, hint), 1));
    }
    Ok(())
}

pub(super) fn is_terminal(number: i32) -> bool {
    nix::unistd::isatty(fds::standard(number)).unwrap_or(false)
}

/// The image and the command that the words stand for.
fn choose(state: &State, store: &Store, flags: &Run) -> Result<Choice> {
    let tell = |line: &str| {
        if !flags.quiet {
            super::note(line);
        }
    };
    if let Some(name) = &flags.image {
        let (image, note) = match found_here(store, name, flags)? {
            Some(found) => found,
            None if flags.pull == Some(PullWhen::Never) => {
                return Err(with_exit_code(no_such_image(name), 125));
            }
            None => (pull_wanted(state, store, name, flags)?, None),
        };
        note.iter().for_each(|note| tell(note));
        return Ok(Choice {
            image,
            name: name.clone(),
            command: flags.words.clone(),
        });
    }
    let default = default_image();
    let Some((first, rest)) = flags.words.split_first() else {
        let image = match flags.pull {
            Some(PullWhen::Always) => pull_wanted(state, store, &default, flags)?,
            _ => {
                let (image, note) = store.ensure_default(&default).exit_code(125)?;
                let otherwise = || format!("no image is named: it runs in {default}");
                tell(&note.unwrap_or_else(otherwise));
                image
            }
        };
        return Ok(Choice {
            image,
            name: default,
            command: Vec::new(),
        });
    };
    if let Some((image, note)) = found_here(store, first, flags)? {
        note.iter().for_each(|note| tell(note));
        return Ok(Choice {
            image,
            name: first.clone(),
            command: rest.to_vec(),
        });
    }
    let could_be_command = could_be_command(first);
    let wants_pull = flags.pull.is_some_and(|when| when != PullWhen::Never);
    if wants_pull || (!could_be_command && flags.pull.is_none()) {
        return Ok(Choice {
            image: pull_wanted(state, store, first, flags)?,
            name: first.clone(),
            command: rest.to_vec(),
        });
    }
    if !could_be_command {
        Reference::parse(first).exit_code(125)?;
        return Err(with_exit_code(no_such_image(first), 125));
    }
    let (image, note) = store.ensure_default(&default).exit_code(125)?;
    note.iter().for_each(|note| tell(note));
    if first.starts_with('/') || image.holds_command(first) {
        if note.is_none() {
            tell(&format!("no image is called {first}: it runs in {default}"));
        }
        return Ok(Choice {
            image,
            name: default,
            command: flags.words.clone(),
        });
    }
    let error = anyhow!(
        "{}: no such image, and not found in $PATH of the default image {default}",
        super::visible(first)
    );
    Err(with_exit_code(
        with_hint(error, foreign::hint_for_run(first)),
        127,
    ))
}

/// A path of the default image, or a name on its PATH; never anything that looks like an image's full
/// name.
fn could_be_command(word: &str) -> bool {
    word.starts_with('/') || !word.contains(['/', ':', '@'])
}

fn pull_wanted(state: &State, store: &Store, name: &str, flags: &Run) -> Result<Image> {
    pull_for(state, store, name, flags.platform.as_ref(), flags.quiet).exit_code(125)
}

/// An image of the store, unless it is to be pulled anyway.
fn found_here(store: &Store, name: &str, flags: &Run) -> Result<Option<(Image, Option<String>)>> {
    let may_pull = match flags.pull {
        Some(PullWhen::Always) => return Ok(None),
        Some(when) => when == PullWhen::Missing,
        None => flags.image.is_some() || !could_be_command(name),
    };
    let wanted = flags.platform.as_ref().filter(|_| may_pull);
    find_for(store, name, wanted)
}

/// The same. One of this name for another platform is none: it can be pulled for the one that is wanted.
pub(super) fn find_for(
    store: &Store,
    name: &str,
    wanted: Option<&Platform>,
) -> Result<Option<(Image, Option<String>)>> {
    let found = find_or_make(store, name)?;
    let key = Reference::parse(name).map(|name| name.key());
    let is_other = |(image, _): &(Image, _)| {
        let is_named = key.as_ref().is_ok_and(|key| image.names.contains(key));
        is_named && wanted.is_some_and(|wanted| !wanted.suits(&image.platform()))
    };
    Ok(found.filter(|found| !is_other(found)))
}

/// An image of the store. The default one is made if it is missing.
fn find_or_make(store: &Store, name: &str) -> Result<Option<(Image, Option<String>)>> {
    let default = default_image();
    let names_default = |text: &str| {
        let parse = |text: &str| Reference::parse(text).ok().map(|reference| reference.key());
        parse(text).is_some() && parse(text) == parse(&default)
    };
    if names_default(name) {
        return store.ensure_default(&default).exit_code(125).map(Some);
    }
    Ok(store.find(name).exit_code(125)?.map(|image| (image, None)))
}

pub(super) fn no_such_image(name: &str) -> anyhow::Error {
    with_hint(
        anyhow!("no such image: {}", super::visible(name)),
        "`mydocker images` lists them; `mydocker pull` brings one, `mydocker import` makes one",
    )
}

/// `run commit CONTAINER IMAGE`, as the seed writes it (D8): only when no image is called `commit`
/// and there is such a container.
fn commit_alias(state: &State, flags: &Run) -> Result<Option<Commit>> {
    let [verb, container, image] = flags.words.as_slice() else {
        return Ok(None);
    };
    let meant = verb == "commit"
        && flags.image.is_none()
        && record::find_id(state, container).is_ok()
        && Store::open(&state.root)?.find("commit")?.is_none();
    Ok(meant.then(|| cli::Commit {
        message: None,
        author: None,
        change: Vec::new(),
        pause: true,
        quiet: false,
        container: container.clone(),
        image: Some(image.clone()),
    }))
}
