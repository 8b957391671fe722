//! `export`: all files of a container as a tar archive. They are read through a read-only overlay of
//! what it changed over its layers: without its mounts, whether or not it runs, and by descriptors,
//! since it may change them meanwhile.

use super::cli::{Export, Global};
use super::image::write_tree;
use super::output::to_file;
use super::run::is_terminal;
use super::state_dirs::State;
use super::{events, overlay, record};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Result, anyhow};
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;

/// `mydocker export`
pub fn export(state: &State, _: &Global, args: &Export) -> Result<i32> {
    let record = record::find(state, &args.container)?;
    if args.output.is_none() && is_terminal(1) {
        let error = anyhow!("export: standard output is a terminal");
        let hint = "mydocker export -o FILE CONTAINER, or mydocker export CONTAINER > FILE";
        return Err(with_exit_code(with_hint(error, hint), 1));
    }
    let write = || -> Result<Vec<String>> {
        // A commit that was killed may have left none.
        let upper = Some(state.upper(&record.id)).filter(|upper| upper.is_dir());
        let dirs: Vec<_> = upper.into_iter().chain(record.lowers()).collect();
        let root = overlay::view(&dirs, &state.container(&record.id))?;
        let all = |to: &mut dyn Write| write_tree(root.as_fd(), record.keep_id.as_ref(), to);
        match &args.output {
            Some(path) => to_file(path, all).with_context(|| format!("write {}", path.display())),
            None => all(&mut BufWriter::with_capacity(
                1 << 20,
                std::io::stdout().lock(),
            )),
        }
    };
    let notes = state
        .unless_removed(&record.id, write())
        .with_context(|| format!("export {}", record.name))
        .fallback_hint("mydocker export -o FILE CONTAINER")
        .exit_code(1)?;
    notes.iter().for_each(|line| super::note(line));
    events::of_container(state, &record, "export", &[]);
    Ok(0)
}
