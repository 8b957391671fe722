//! `login` and `logout`.

use super::cli::{Global, Login, Logout};
use super::credentials::{Credentials, Keeper, host_of};
use super::image::{self, Trust};
use super::run::is_terminal;
use super::signals::{Signals, asks_to_end};
use super::state_dirs::State;
use super::{note, say};
use crate::error::{ResultExt, with_exit_code, with_hint};
use crate::sys::fds;
use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// `mydocker login`
pub fn login(_: &State, _: &Global, args: &Login) -> Result<i32> {
    let server = server(&args.server);
    let keeper = Keeper::of_caller();
    let trust = Trust::of(args.insecure.insecure);
    if args.username.is_none()
        && !args.password_stdin
        && args.password.is_none()
        && let Some(known) = keeper.get(server).exit_code(1)?
    {
        note("with the credentials that are kept");
        image::login(server, known, trust).exit_code(1)?;
        return say("Login Succeeded").map(|()| 0);
    }
    let credentials = asked(args)?;
    image::login(server, credentials.clone(), trust)
        .with_context(|| format!("log in to {server}"))
        .exit_code(1)?;
    let place = keeper.put(server, &credentials).exit_code(1)?;
    if place.starts_with('/') {
        note(&format!("the password is kept, unencrypted, in {place}"));
    }
    say("Login Succeeded").map(|()| 0)
}

/// `mydocker logout`
pub fn logout(_: &State, _: &Global, args: &Logout) -> Result<i32> {
    let server = server(&args.server);
    let known = Keeper::of_caller().remove(server).exit_code(1)?;
    match known {
        true => say(&format!("Removing login credentials for {server}"))?,
        false => say(&format!("Not logged in to {server}"))?,
    }
    Ok(0)
}

/// The host of what people copy from a browser, too.
fn server(text: &str) -> &str {
    match host_of(text) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// Name and password, of the options, of standard input, or of the person at the terminal.
fn asked(args: &Login) -> Result<Credentials> {
    let fail = |what: &str, hint: &str| -> Result<Credentials> {
        Err(with_exit_code(with_hint(anyhow!("login: {what}"), hint), 1))
    };
    if args.password_stdin && args.username.is_none() {
        return fail("--password-stdin needs --username", "add -u NAME");
    }
    let can_ask = is_terminal(0);
    let name = match &args.username {
        Some(name) => name.clone(),
        None if can_ask => line("Username: ", true).exit_code(1)?,
        None => {
            return fail(
                "no user name",
                "-u NAME --password-stdin, without a terminal",
            );
        }
    };
    let secret = match &args.password {
        Some(secret) => {
            note("-p shows the password to other users: --password-stdin does not");
            secret.clone()
        }
        None if args.password_stdin => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("read the password from standard input")
                .exit_code(1)?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None if can_ask => line("Password: ", false).exit_code(1)?,
        None => return fail("no password", "--password-stdin, without a terminal"),
    };
    if name.is_empty() || secret.is_empty() {
        return fail("the user name or the password is empty", "give both");
    }
    Ok(Credentials::password(&name, &secret))
}

/// What came of a question.
enum Typed {
    Line(String),
    /// A signal that asks to end.
    Signal(i32),
}

/// Asks at the terminal. Whoever ends us there gets the terminal back as it was.
fn line(question: &str, echo: bool) -> Result<String> {
    let terminal = fds::standard(0);
    let before = tcgetattr(terminal).context("look at the terminal")?;
    let mut silent = before.clone();
    silent.local_flags.set(LocalFlags::ECHO, echo);
    let mask = SigSet::thread_get_mask().context("read the mask of signals")?;
    let signals = Signals::hold()?;
    let mut err = std::io::stderr();
    let _ = err.write_all(question.as_bytes());
    tcsetattr(terminal, SetArg::TCSADRAIN, &silent).context("change the terminal")?;
    let typed = typed(terminal, &signals);
    tcsetattr(terminal, SetArg::TCSADRAIN, &before).context("change the terminal")?;
    mask.thread_set_mask().context("let signals in again")?;
    if !echo {
        let _ = err.write_all(b"\n");
    }
    match typed.context("read from the terminal")? {
        Typed::Line(text) => Ok(text),
        Typed::Signal(signal) => {
            nix::sys::signal::raise(signal.try_into()?)?;
            // It was ignored.
            Err(anyhow!("interrupted"))
        }
    }
}

/// A line, or what is there at the end of the input.
fn typed(terminal: BorrowedFd<'_>, signals: &Signals) -> Result<Typed> {
    let mut text = Vec::new();
    // A Ctrl-C takes away what was typed, also between poll(2) and read(2), which would then wait and hear
    // no signal. Opened once more, since `O_NONBLOCK` would go for all who have the terminal.
    let own = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(fds::path(&terminal));
    // It may be another user's (su).
    let terminal = own.as_ref().map_or(terminal, File::as_fd);
    loop {
        let mut fds = [terminal, signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(signal) = signals.next()? {
            if asks_to_end(signal) {
                return Ok(Typed::Signal(signal));
            }
        }
        if !fds[0].any().unwrap_or_default() {
            continue;
        }
        let mut buffer = [0; 512];
        let count = match nix::unistd::read(terminal, &mut buffer) {
            Err(Errno::EAGAIN) => continue,
            other => other?,
        };
        text.extend_from_slice(&buffer[..count]);
        if count == 0 || text.ends_with(b"\n") {
            let text = String::from_utf8(text).context("it is no text")?;
            return Ok(Typed::Line(text.trim_end_matches(['\r', '\n']).to_owned()));
        }
    }
}
