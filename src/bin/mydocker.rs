//! `mydocker`: containers without a daemon. Parses the command line, runs one verb, reports an
//! error once.

use anyhow::{Result, bail};
use clap::Parser;
use containers::error;
use containers::mydocker::cli::{Cli, Verb};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            eprint!("{}", error::render("mydocker", &error));
            ExitCode::from(error::exit_code(&error).unwrap_or(125) as u8)
        }
    }
}

fn run(cli: &Cli) -> Result<i32> {
    let _ = &cli.global;
    match &cli.verb {
        Verb::Run(_) => bail!("being written"),
        _ => bail!("being written"),
    }
}
