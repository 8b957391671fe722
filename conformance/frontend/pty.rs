//! A terminal for mydocker: a pty whose other end the row types on and reads.

use super::kit::{Collected, Desk, Done, code, ended, wait_for};
use anyhow::{Context, Result, ensure};
use containers::sys::tty::{Size, set_size};
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{LocalFlags, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

/// A command on a terminal of its own.
#[derive(Debug)]
pub(crate) struct Terminal {
    what: String,
    child: Child,
    master: File,
    shown: Collected,
    /// How much of what was shown `expect` has passed.
    seen: usize,
}

/// A terminal: where it is typed and read, and the end of the programs.
pub(crate) fn pty() -> Result<(File, File)> {
    // Nobody inherits it: it hangs up when we close it.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).context("open a terminal")?;
    grantpt(&master).context("grantpt")?;
    unlockpt(&master).context("unlockpt")?;
    let slave = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(ptsname_r(&master).context("name of the terminal")?)
        .context("open the other end of the terminal")?;
    Ok((File::from(OwnedFd::from(master)), slave))
}

impl Desk {
    /// Starts mydocker as the leader of a session on a new terminal of 33 lines and 111 columns.
    pub(crate) fn terminal(&self, args: &[&str]) -> Result<Terminal> {
        let (child, master) = self.on_terminal(args)?;
        Ok(Terminal {
            what: args.join(" "),
            child,
            shown: Collected::from(master.try_clone()?),
            master,
            seen: 0,
        })
    }

    /// The same, but the window is closed as soon as it shows this: the exit code.
    pub(crate) fn closed_window(&self, args: &[&str], typed: &str, shown: &str) -> Result<i32> {
        let (mut child, mut master) = self.on_terminal(args)?;
        master.write_all(typed.as_bytes()).context("type")?;
        let (mut seen, mut buffer) = (Vec::new(), [0; 512]);
        while !String::from_utf8_lossy(&seen).contains(shown) {
            let count = master.read(&mut buffer).context("read what is shown")?;
            seen.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
        drop(master);
        let waited = ended(child.id() as i32, &args.join(" "));
        let status = child.wait().context("wait")?;
        waited.map(|()| code(status))
    }

    fn on_terminal(&self, args: &[&str]) -> Result<(Child, File)> {
        let (master, slave) = pty()?;
        let size = Size {
            rows: 33,
            columns: 111,
        };
        set_size(master.as_fd(), size).context("set the size of the terminal")?;
        // util-linux' setsid makes standard input the controlling terminal; a child of ours leads
        // no process group, so it does not fork and the exit code is mydocker's.
        let mut command = self.command(Path::new("setsid"));
        command.arg("--ctty").arg(self.program()).args(args);
        let child = command
            .stdin(Stdio::from(slave.try_clone()?))
            .stdout(Stdio::from(slave.try_clone()?))
            .stderr(Stdio::from(slave))
            .spawn()
            .context("run setsid")?;
        // The slave's descriptors go with the command, so that the master sees the end.
        drop(command);
        Ok((child, master))
    }

    /// Runs mydocker on a terminal to its end without typing anything.
    pub(crate) fn tty(&self, args: &[&str]) -> Result<Done> {
        self.terminal(args)?.finish()
    }
}

impl Terminal {
    /// Waits until the terminal shows this, after what was expected before.
    pub(crate) fn expect(&mut self, text: &str) -> Result<()> {
        let what = format!("`mydocker {}` shows {text:?}", self.what);
        let at = wait_for(&what, || {
            // Asked in this order, nothing that came last is missed.
            let over = self.shown.is_over();
            let shown = self.shown.so_far();
            let found = shown.get(self.seen..).and_then(|new| new.find(text));
            ensure!(found.is_some() || !over, "it has ended without {text:?}");
            Ok(found.map(|at| self.seen + at + text.len()))
        })
        .with_context(|| format!("{what}; it shows {:?}", self.shown.so_far()))?;
        self.seen = at;
        Ok(())
    }

    /// Types.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        self.master.write_all(text.as_bytes()).context("type")
    }

    /// Whether it shows what is typed.
    pub(crate) fn echoes(&self) -> Result<bool> {
        let modes = tcgetattr(&self.master).context("look at the terminal")?;
        Ok(modes.local_flags.contains(LocalFlags::ECHO))
    }

    /// Changes the window's size: the kernel sends SIGWINCH to the foreground.
    pub(crate) fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        set_size(self.master.as_fd(), Size { rows, columns }).context("resize the terminal")
    }

    /// Waits for the end of the command; `\r\n` is shown as `\n`.
    pub(crate) fn finish(mut self) -> Result<Done> {
        let waited = ended(self.child.id() as i32, &self.what);
        let status = self.child.wait().context("wait")?;
        waited.with_context(|| format!("it shows {:?}", self.shown.so_far()))?;
        Ok(Done {
            what: self.what.clone(),
            code: code(status),
            out: self.shown.all()?.replace("\r\n", "\n"),
            err: String::new(),
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Without effect after `finish`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
