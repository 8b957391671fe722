//! `import`: an image from an archive or a directory.

use super::cli::{Global, Import};
use super::image::{ImportOptions, Source, Store};
use super::progress::Progress;
use super::state_dirs::State;
use crate::error::ResultExt;
use anyhow::{Context, Result};

/// `mydocker import`
pub fn import(state: &State, _: &Global, args: &Import) -> Result<i32> {
    let options = ImportOptions {
        name: args.image.clone(),
        changes: args.change.clone(),
        message: args.message.clone(),
        created: None,
    };
    let make = || -> Result<super::image::Made> {
        let source = Source::open(&args.source, &Progress::new(args.quiet))?;
        Store::open(&state.root)?.import(source, &options)
    };
    let made = make()
        .with_context(|| format!("import {}", args.source.display()))
        .fallback_hint("it takes a tar archive (gzip too), a directory, a URL, or - for stdin")
        .exit_code(1)?;
    if !args.quiet {
        for note in &made.notes {
            super::note(note);
        }
    }
    let name = args.image.as_deref().unwrap_or_default();
    super::events::of_image(state, "import", &made.image.id, name);
    super::say(&made.image.id).map(|()| 0)
}
