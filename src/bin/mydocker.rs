//! `mydocker`: containers without a daemon. Parses the command line, runs one verb, reports an
//! error once.

#![no_main]

use anyhow::{Context, Result};
use containers::mydocker::cli::{Cli, LogFormat, Verb};
use containers::mydocker::flags::{self, Parsed};
use containers::mydocker::state_dirs::State;
use containers::mydocker::{
    attach, background, boot, build, check, commit, cp, df, doctor, events, exec, export, health,
    history, images, import, info, init, inspect, load, login, logs, monitor, pause, prune, ps,
    registry, rename, rm, rootless, run, start, stats, stop, top, umask, update, volume, wait, why,
};
use containers::sys::fds;
use containers::{completion, error, mydocker};
use std::ffi::OsString;
use std::io::Write;

containers::program!("mydocker", main_of_mydocker);

fn main_of_mydocker() -> i32 {
    // What the caller has open is not for those whom we start: a monitor would keep its lock or its
    // pipe for as long as the container runs. Nothing is lost if the kernel cannot do it.
    let _ = fds::cloexec_from(3);
    umask::settle();
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let args: Vec<OsString> = args.collect();
    // What mydocker runs of itself reads no command line, whose tables are large: most of it lives as
    // long as a container.
    if name.as_encoded_bytes().ends_with(b"/docker-init") {
        let program = args.strip_prefix(&[OsString::from("--")]).unwrap_or(&args);
        return report(init::run(program), 125, LogFormat::Text, false);
    }
    if args.first().is_some_and(|verb| verb == background::VERB) {
        let id = args.get(1).and_then(|id| id.to_str()).unwrap_or_default();
        return report(monitor::main(id).map(|()| 0), 125, LogFormat::Text, false);
    }
    if args.first().is_some_and(|verb| verb == background::ADOPT) {
        let id = args.get(1).and_then(|id| id.to_str()).unwrap_or_default();
        return report(
            monitor::adopted(id).map(|()| 0),
            125,
            LogFormat::Text,
            false,
        );
    }
    if args.first().is_some_and(|verb| verb == health::VERB) {
        let id = args.get(1).and_then(|id| id.to_str()).unwrap_or_default();
        return report(health::main(id).map(|()| 0), 125, LogFormat::Text, false);
    }
    match flags::parse(args) {
        Ok(Parsed::Run(cli)) => {
            let (format, debug) = (cli.global.log_format, cli.global.debug);
            let failure = failure_code(&cli.verb);
            report(run(&cli), failure, format, debug)
        }
        Ok(Parsed::Print(text)) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            0
        }
        Err(refused) => report(Err(refused.error), 125, refused.format, refused.debug),
    }
}

/// The exit code of a verb that fails without a code of its own: Docker's 125 for those that make
/// containers, 1 for the others.
fn failure_code(verb: &Verb) -> i32 {
    match verb {
        Verb::Run(_) | Verb::Create(_) => 125,
        _ => 1,
    }
}

/// Whether a verb has to do with containers or images: an ordinary user's are those of a user namespace.
fn touches_containers(verb: &Verb) -> bool {
    !matches!(
        verb,
        Verb::Version(_) | Verb::Completion(_) | Verb::Doctor(_) | Verb::Login(_) | Verb::Logout(_)
    )
}

/// Whether a verb makes processes in containers.
fn makes_processes(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Run(_)
            | Verb::Start(_)
            | Verb::Restart(_)
            | Verb::Exec(_)
            | Verb::Build(_)
            | Verb::Boot(_)
    )
}

fn report(result: Result<i32>, failure: i32, format: LogFormat, debug: bool) -> i32 {
    match result {
        Ok(code) => code,
        Err(failed) => {
            let failed = mydocker::for_whom(failed, mydocker::is_superuser());
            let text = match format {
                LogFormat::Json => error::json("mydocker", &failed),
                LogFormat::Text => error::render("mydocker", &failed),
            };
            let mut stderr = std::io::stderr();
            let _ = stderr.write_all(text.as_bytes());
            if debug {
                let _ = writeln!(stderr, "debug: {failed:?}");
            }
            error::exit_code(&failed).unwrap_or(failure)
        }
    }
}

fn run(cli: &Cli) -> Result<i32> {
    let state = State::from_env().context("find the state directories")?;
    if !nix::unistd::geteuid().is_root() && touches_containers(&cli.verb) {
        rootless::enter(&state, makes_processes(&cli.verb))?;
    }
    let (state, global) = (&state, &cli.global);
    match &cli.verb {
        Verb::Run(args) => run::run(state, global, args),
        Verb::Create(args) => run::create(state, global, args),
        Verb::Ps(args) => ps::ps(state, global, args),
        Verb::Logs(args) => logs::logs(state, global, args),
        Verb::Attach(args) => attach::attach(state, global, args),
        Verb::Exec(args) => exec::exec(state, global, args),
        Verb::Stop(args) => stop::stop(state, global, args),
        Verb::Kill(args) => stop::kill(state, global, args),
        Verb::Start(args) => start::start(state, global, args),
        Verb::Restart(args) => start::restart(state, global, args),
        Verb::Pause(args) => pause::pause(state, global, args),
        Verb::Unpause(args) => pause::unpause(state, global, args),
        Verb::Rename(args) => rename::rename(state, global, args),
        Verb::Update(args) => update::update(state, global, args),
        Verb::Stats(args) => stats::stats(state, global, args),
        Verb::Why(args) => why::why(state, global, args),
        Verb::Check(args) => check::check(state, global, args),
        Verb::Events(args) => events::events(state, global, args),
        Verb::Rm(args) => rm::rm(state, global, args),
        Verb::Wait(args) => wait::verb(state, global, args),
        Verb::Top(args) => top::top(state, global, args),
        Verb::Diff(args) => commit::diff(state, global, args),
        Verb::Cp(args) => cp::cp(state, global, args),
        Verb::Commit(args) => commit::commit(state, global, args),
        Verb::Images(args) => images::images(state, global, args),
        Verb::Rmi(args) => images::rmi(state, global, args),
        Verb::Build(args) => build::build(state, global, args),
        Verb::Import(args) => import::import(state, global, args),
        Verb::Load(args) => load::load(state, global, args),
        Verb::Save(args) => load::save(state, global, args),
        Verb::History(args) => history::history(state, global, args),
        Verb::Export(args) => export::export(state, global, args),
        Verb::Tag(args) => images::tag(state, global, args),
        Verb::Pull(args) => registry::pull(state, global, args),
        Verb::Push(args) => registry::push(state, global, args),
        Verb::Login(args) => login::login(state, global, args),
        Verb::Logout(args) => login::logout(state, global, args),
        Verb::Inspect(args) => inspect::inspect(state, global, args),
        Verb::ContainerPrune(args) => prune::containers(state, global, args),
        Verb::ImagePrune(args) => prune::images(state, global, args),
        Verb::BuilderPrune(args) => prune::builder(state, global, args),
        Verb::VolumeCreate(args) => volume::create(state, global, args),
        Verb::VolumeLs(args) => volume::ls(state, global, args),
        Verb::VolumeInspect(args) => volume::inspect(state, global, args),
        Verb::VolumeRm(args) => volume::rm(state, global, args),
        Verb::VolumePrune(args) => prune::volumes(state, global, args),
        Verb::SystemPrune(args) => prune::system(state, global, args),
        Verb::SystemDf(args) => df::df(state, global, args),
        Verb::Boot(args) => boot::boot(state, global, args),
        Verb::Doctor(args) => doctor::doctor(state, global, args),
        Verb::Version(args) => info::version(state, global, args),
        Verb::Info(args) => info::info(state, global, args),
        Verb::Completion(args) => completion::print::<Cli>(args).map(|()| 0),
    }
}
