//! `runtime`: an OCI runtime. Parses the command line, runs one verb, reports an error once.

#![no_main]

use anyhow::Result;
use containers::runtime::cli::{Cli, Global, LogLevel, Verb};
use containers::runtime::store::Store;
use containers::runtime::{
    checkpoint, create, delete, events, exec, features, kill, list, log, mounts, restore, root,
    seal, spec, start, update,
};
use containers::sys::alloc::Brief;
use containers::{completion, error};

#[global_allocator]
static ALLOC: Brief = Brief;

containers::entry_point!();
containers::program!("runtime", start);

fn start() -> i32 {
    let Cli { global, verb } = match Cli::of_words(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() {
                log::usage(std::env::args_os(), &error.to_string());
            }
            error.exit();
        }
    };
    let level = if global.debug {
        LogLevel::Debug
    } else {
        global.log_level
    };
    let result = log::open(global.log.as_deref(), global.log_format, level)
        .and_then(|()| run(&global, &verb));
    match result {
        Ok(code) => code,
        Err(error) => {
            let code = error::exit_code(&error);
            log::error(error);
            // That of `exec` is the program's, so that its own failure needs another than 1.
            let failure = if matches!(verb, Verb::Exec(_)) {
                255
            } else {
                1
            };
            code.unwrap_or(failure)
        }
    }
}

fn run(global: &Global, verb: &Verb) -> Result<i32> {
    // Some verbs need no place for containers.
    let store = || Store::open(&root::choose(global)?);
    match verb {
        // These make a process in the container, which must not reach this program's file.
        Verb::Create(args) => {
            seal::ensure()?;
            create::create(&store()?, &args.creation, &args.id.id, global.manager()).map(drop)?;
        }
        Verb::Run(args) => {
            seal::ensure()?;
            return start::run(&store()?, args, global.manager());
        }
        Verb::Exec(args) => {
            seal::ensure()?;
            return exec::exec(&store()?, args);
        }
        Verb::Mounts(args) => {
            seal::ensure()?;
            mounts::mounts(&store()?, args)?;
        }
        Verb::Start(args) => start::start(&store()?, &args.id)?,
        Verb::State(args) => list::state(&store()?, &args.id)?,
        Verb::Kill(args) => kill::kill(&store()?, args)?,
        Verb::Delete(args) => delete::delete(&store()?, args)?,
        Verb::List(args) => list::list(&store()?, args)?,
        Verb::Ps(args) => list::ps(&store()?, args)?,
        Verb::Pause(args) => kill::pause(&store()?, &args.id)?,
        Verb::Resume(args) => kill::resume(&store()?, &args.id)?,
        Verb::Update(args) => update::update(&store()?, args)?,
        Verb::Events(args) => events::events(&store()?, args)?,
        Verb::Checkpoint(args) => {
            checkpoint::checkpoint(&store()?, args, global.criu.as_deref())?;
        }
        // criu makes the processes, so that none of them has reached this program's file.
        Verb::Restore(args) => {
            return restore::restore(&store()?, args, global.manager(), global.criu.as_deref());
        }
        Verb::Spec(args) => spec::spec(args)?,
        Verb::Features => features::features()?,
        Verb::Completion(args) => completion::print::<Cli>(args)?,
    }
    Ok(0)
}
