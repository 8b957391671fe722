//! RUN: a program of the image in a container of its own, and what it wrote as a layer.

use super::mount::Mount;
use super::mounted::{Mounted, Room};
use super::plan::Step;
use super::stage::{Builder, Key, Work};
use crate::error::{ResultExt, with_hint};
use crate::mydocker::cli::{self, Verb};
use crate::mydocker::create::{self, Made, Wish};
use crate::mydocker::dockerfile::{Command, instruction, lines, words};
use crate::mydocker::flags::{self, Parsed};
use crate::mydocker::image;
use crate::mydocker::record::{self, Process, Record};
use crate::mydocker::wires::Attached;
use crate::mydocker::{monitor, rm, why};
use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::SigSet;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Write;

/// Variables that --build-arg may set without an ARG. They are no part of what is kept.
const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// Whether a variable is one of those for proxies, in either case.
pub(super) fn is_proxy(name: &str) -> bool {
    PROXIES
        .iter()
        .any(|proxy| *proxy == name || proxy.to_ascii_lowercase() == name)
}

/// Carries out RUN.
pub(super) fn run(
    builder: &mut Builder<'_>,
    work: &mut Work,
    step: &Step,
    run: &instruction::Run,
) -> Result<()> {
    if work.parts.layers.is_empty() {
        return Err(anyhow!("the image is empty: there is nothing to run"))
            .hint("COPY a program first, or begin FROM an image that has a shell");
    }
    let mut program = program(work, run);
    let mut mounts = Vec::new();
    for text in &run.mounts {
        let mount = Mount::parse(text, &|text| builder.replaced(work, text))?;
        mounts.push(Mounted::new(builder, work, mount)?);
    }
    let keys = mounts.iter().map(|mount| mount.key(builder));
    let keys: Vec<Value> = keys.collect::<Result<_>>()?;
    let network = network(builder, run);
    let env = variables(work);
    let key = json!([
        "run",
        work.below(),
        program.words,
        program.script,
        work.env(),
        env,
        work.user(),
        work.workdir(),
        network,
        keys,
    ]);
    let args = match env.as_slice() {
        [] => String::new(),
        env => format!("|{} {} ", env.len(), env.join(" ")),
    };
    let text = format!("RUN {args}{}", program.words.join(" "));
    let make = |builder: &mut Builder<'_>, work: &Work, key: Key| {
        let mut room = Room::new(builder)?;
        for mount in &mounts {
            room.put(builder, mount)?;
        }
        if let Some((path, text)) = &program.script {
            program.words = vec![path.clone()];
            room.file(path, text.as_bytes(), 0o755, (0, 0))?;
        }
        container(
            builder,
            work,
            &program.words,
            network.as_deref(),
            &room,
            key,
        )
    };
    builder.layer(work, step, &text, &key, make)
}

/// What is run.
struct Program {
    words: Vec<String>,
    /// A here-document that says itself by what it is run: where it is to be, and its text.
    script: Option<(String, String)>,
}

fn program(work: &Work, run: &instruction::Run) -> Program {
    let Command::Shell(line) = &run.command else {
        return Program {
            words: run.command.words(&work.shell()),
            script: None,
        };
    };
    let is_alone = words::split(line, '\\')
        .is_ok_and(|words| matches!(words.as_slice(), [word] if lines::heredoc(word).is_some()));
    let (line, script) = match run.heredocs.as_slice() {
        [] => (line.clone(), None),
        [one] if is_alone && one.content.starts_with("#!") => {
            let path = format!("/dev/pipes/{}", one.name);
            (String::new(), Some((path, one.text())))
        }
        [one] if is_alone => (one.text(), None),
        // The shell knows what to do with them.
        all => {
            let mut whole = line.clone();
            for one in all {
                whole += &format!("\n{}{}", one.content, one.name);
            }
            (whole, None)
        }
    };
    Program {
        words: Command::Shell(line).words(&work.shell()),
        script,
    }
}

/// The variables of ARG as the program sees them: those that no ENV has.
fn variables(work: &Work) -> Vec<String> {
    let env = work.env();
    let is_free = |name: &str| !env.iter().any(|line| line.split('=').next() == Some(name));
    let args = work.args.iter().filter(|(name, _)| is_free(name));
    args.map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn network(builder: &Builder<'_>, run: &instruction::Run) -> Option<String> {
    let of_build = builder
        .args
        .network
        .as_deref()
        .filter(|name| *name != "default");
    run.network.clone().or_else(|| of_build.map(str::to_owned))
}

/// Runs the program, and keeps what it wrote.
fn container(
    builder: &mut Builder<'_>,
    work: &Work,
    program: &[String],
    network: Option<&str>,
    room: &Room,
    key: Key,
) -> Result<image::Step> {
    let flags = flags(builder, work, network, room)?;
    let mut parts = work.parts.clone();
    if let Some(config) = parts.config["config"].as_object_mut() {
        // What it writes there is part of the image.
        config.remove("Volumes");
    }
    let image = builder.store.image_of_parts(&parts)?;
    let wish = Wish {
        image: &image,
        image_name: "build",
        command: program,
        flags: &flags,
        keep_id: None,
        remove: true,
        only_created: false,
        in_background: false,
    };
    let state = builder.state;
    let Made {
        mut record, lock, ..
    } = create::create(state, builder.store, builder.global, &wish)?;
    // It is ours until we have its files; should we be killed, it is nobody's.
    let me = Process::of(std::process::id() as i32)?;
    record.update(state, false, |record| record.build = Some(me))?;
    let mask = SigSet::thread_get_mask().context("read the mask of signals")?;
    let id = record.id.clone();
    let ended = monitor::foreground(state, record, lock, Attached::step(builder.progress.quiet));
    // What came meanwhile ends us now.
    let _ = mask.thread_set_mask();
    let result = ended.and_then(|code| layer(builder, work, &id, code, key));
    if state.has_record(&id) {
        let removed = rm::one(state, &id, true, true);
        return result.and_then(|step| removed.map(|()| step));
    }
    result
}

fn layer(builder: &Builder<'_>, work: &Work, id: &str, code: i32, key: Key) -> Result<image::Step> {
    let record = record::load(builder.state, id)?;
    if code != 0 {
        return Err(failure(builder, &record, code));
    }
    let upper = builder.state.upper(id);
    let upper = (upper.as_path(), Some(record.shown.placeholders.as_slice()));
    let key_of = (key.name.as_str(), builder.draft);
    let kept = builder
        .store
        .keep_step(key_of, &work.parts, upper, key.created);
    let (step, notes) = kept?;
    notes.iter().for_each(|note| builder.progress.say(note));
    Ok(step)
}

fn failure(builder: &Builder<'_>, record: &Record, code: i32) -> anyhow::Error {
    if builder.progress.quiet {
        // Now it is to the point.
        for (_, line) in why::last_lines(builder.state, record, 20).unwrap_or_default() {
            let _ = std::io::stderr().write_all(&[line.as_slice(), b"\n"].concat());
        }
    }
    let killed = match code {
        129..=192 => format!(" (killed by signal {})", code - 128),
        _ => String::new(),
    };
    let error = anyhow!("it ended with exit code {code}{killed}");
    let hint = match builder.args.network.as_deref() {
        Some("host") => "what it printed is above; the steps before it are kept",
        _ => "what it printed is above; it has no network but with --network host",
    };
    with_hint(error, hint)
}

/// The options of `run` that give the container what the step asks for.
fn flags(
    builder: &Builder<'_>,
    work: &Work,
    network: Option<&str>,
    room: &Room,
) -> Result<cli::Run> {
    let mut words: Vec<String> = [
        "run",
        "--no-healthcheck",
        "--entrypoint=",
        "--log-opt=max-size=1m",
    ]
    .map(str::to_owned)
    .to_vec();
    words.extend(network.map(|network| format!("--network={network}")));
    let mut env = variables(work);
    let proxies = builder.build_args.iter().filter(|(name, _)| is_proxy(name));
    env.extend(proxies.map(|(name, value)| format!("{name}={value}")));
    env.extend(room.env.iter().cloned());
    words.extend(env.into_iter().map(|line| format!("--env={line}")));
    words.extend(room.words.iter().cloned());
    words.extend(["--image=build".to_owned()]);
    let words = words.into_iter().map(OsString::from).collect();
    match flags::parse(words).map_err(|refused| refused.error)? {
        Parsed::Run(cli) => match cli.verb {
            Verb::Run(mut run) => {
                builder.args.limits.give(&mut run);
                Ok(*run)
            }
            _ => bail!("the options of run are none"),
        },
        Parsed::Print(_) => bail!("the options of run are none"),
    }
}
