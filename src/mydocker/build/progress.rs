//! What a person sees of a build: a line for each step, what its program prints, and how long it
//! took. All on standard error; standard output is the image's id.

use std::io::Write;
use std::time::{Duration, Instant};

/// Where a build tells how it goes.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) quiet: bool,
    /// The stage's name, if there are several stages.
    stage: Option<String>,
    at: usize,
    total: usize,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Progress {
        Progress {
            quiet,
            stage: None,
            at: 0,
            total: 0,
        }
    }

    /// A stage begins, with so many steps.
    pub(super) fn stage(&mut self, name: Option<String>, total: usize) {
        self.stage = name;
        (self.at, self.total) = (0, total);
    }

    /// The next step begins.
    pub(super) fn next(&mut self) {
        self.at += 1;
    }

    /// Says which step it is, and what else is known of it.
    pub(super) fn step(&self, text: &str, remark: &str) {
        let stage = match &self.stage {
            Some(name) => format!("{name} "),
            None => String::new(),
        };
        let width = self.total.to_string().len();
        self.say(&format!(
            "[{stage}{:>width$}/{}] {text}{remark}",
            self.at, self.total
        ));
    }

    /// A step has ended that began then.
    pub(super) fn done(&self, since: Instant) {
        self.say(&format!("    done in {}", seconds(since.elapsed())));
    }

    /// A line for people.
    pub(super) fn say(&self, line: &str) {
        if !self.quiet {
            // Nothing can be told to whoever has closed it.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
