//! What is told of work that takes longer than a second: a bar for each part on a terminal, else a
//! line when a part turns out to take long, and one when it is done. All of it goes to standard error.
//!
//! ```text
//! let progress = Progress::new(args.quiet);
//! let bar = progress.bar("3f4a9c2d1b7e", "downloading", Some(size));
//! bar.add(n);                  // from any thread
//! bar.done("pulled");          // or drop it: then it goes away without a word
//! ```

use std::borrow::Borrow;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::format::size;

/// Work that is quicker than this is not told of.
const PATIENCE: Duration = Duration::from_secs(1);

/// The bars of one command.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bars: MultiProgress,
    /// Whether bars can be drawn: standard error is a terminal.
    terminal: bool,
    quiet: bool,
    since: Instant,
    shown: AtomicBool,
}

/// One part of the work. Dropped before it is done, it vanishes: the error says more.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    progress: Progress,
    label: String,
    since: Instant,
    /// Whether its line was printed, where there are no bars.
    told: AtomicBool,
}

impl Progress {
    /// Told on standard error; not at all if `quiet`.
    pub fn new(quiet: bool) -> Progress {
        let terminal = console_is_terminal();
        Progress(Arc::new(Inner {
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            terminal,
            quiet,
            since: Instant::now(),
            shown: AtomicBool::new(false),
        }))
    }

    /// One that tells nothing.
    pub fn silent() -> Progress {
        Progress::new(true)
    }

    /// A further part: its name, what is being done with it, and of how many bytes, if known.
    pub fn bar(&self, label: &str, stage: &str, total: Option<u64>) -> Bar {
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        let template = match total {
            Some(_) => "{prefix}: {msg:12} [{bar:30}] {decimal_bytes}/{decimal_total_bytes}",
            None => "{prefix}: {msg:12} {decimal_bytes}",
        };
        // The templates are ours: a bar without a style is better than none.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        let bar = self.0.bars.add(bar);
        bar.set_prefix(label.to_owned());
        bar.set_message(stage.to_owned());
        Bar {
            bar,
            progress: self.clone(),
            label: label.to_owned(),
            since: Instant::now(),
            told: AtomicBool::new(false),
        }
    }

    /// A line for the user among the bars: what was left out, a retry.
    pub fn note(&self, line: &str) {
        if !self.0.quiet {
            self.0.bars.suspend(|| super::note(line));
        }
    }

    /// Whether it has taken so long that it is told of. The first time that it has, the bars appear.
    fn is_long(&self) -> bool {
        let inner = &self.0;
        if inner.quiet || inner.since.elapsed() < PATIENCE {
            return false;
        }
        if inner.terminal && !inner.shown.swap(true, Ordering::Relaxed) {
            inner.bars.set_draw_target(ProgressDrawTarget::stderr());
        }
        true
    }
}

fn console_is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

impl Bar {
    /// So many bytes more are through.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
        let is_long = self.progress.is_long() && self.since.elapsed() > PATIENCE;
        if is_long && !self.progress.0.terminal {
            self.tell();
        }
    }

    /// Ends it with a last word.
    pub fn done(self, word: &str) {
        if self.progress.is_long() && !self.progress.0.terminal {
            super::note(&format!("{}: {word}", self.label));
        }
        self.bar.finish_with_message(word.to_owned());
    }

    /// The line that says that it is being done.
    fn tell(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let of = match self.bar.length() {
                Some(total) => format!(" {}", size(total)),
                None => String::new(),
            };
            super::note(&format!("{}: {}{of}", self.label, self.bar.message()));
        }
    }
}

/// A reader whose bytes a bar is told of.
#[derive(Debug)]
pub struct Counted<R, B> {
    /// Where they come from.
    pub from: R,
    /// The bar, or a reference to it.
    pub bar: B,
}

impl<R: Read, B: Borrow<Bar>> Read for Counted<R, B> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.bar.borrow().add(n as u64);
        Ok(n)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if !self.bar.is_finished() {
            self.bar.finish_and_clear();
        }
    }
}
