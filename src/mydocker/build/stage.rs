//! A stage of a build, instruction by instruction.

use super::context::Context;
use super::plan::{Base, Plan, Stage, Step};
use super::progress::Progress;
use super::{copy, run};
use crate::error::ResultExt;
use crate::mydocker::cli::{Build, Global};
use crate::mydocker::dockerfile::{self, Instruction, Setting, Settings, Variables, lines};
use crate::mydocker::image::author;
use crate::mydocker::image::{self, Draft, Parts, Reference, Store};
use crate::mydocker::platform::Platform;
use crate::mydocker::progress::Progress as Bars;
use crate::mydocker::registry::pull_for;
use crate::mydocker::run::{find_for, foreign_note};
use crate::mydocker::sha256::Sha256;
use crate::mydocker::state_dirs::State;
use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A build that is under way.
pub(super) struct Builder<'a> {
    pub(super) state: &'a State,
    pub(super) store: &'a Store,
    pub(super) global: &'a Global,
    pub(super) args: &'a Build,
    pub(super) plan: &'a Plan,
    pub(super) context: &'a Context,
    pub(super) build_args: BTreeMap<String, String>,
    /// Those of `build_args` that some ARG has named.
    pub(super) used_args: BTreeSet<String>,
    /// When everything counts as made (SOURCE_DATE_EPOCH); now if `None`.
    pub(super) epoch: Option<OffsetDateTime>,
    pub(super) draft: &'a Draft,
    pub(super) progress: Progress,
    /// The stages that are finished.
    pub(super) built: Vec<Option<Parts>>,
    /// The variables of each stage that is done: a stage that begins with it has them, too.
    pub(super) stage_args: Vec<BTreeMap<String, String>>,
    /// The images that were asked for: each is the same for the whole build.
    pub(super) images: BTreeMap<(String, Option<String>), Parts>,
    /// The dates of steps that have made no layer, under the keys by which the next build finds them.
    pub(super) dates: BTreeMap<String, String>,
}

/// What has become of a stage so far.
pub(super) struct Work {
    pub(super) parts: Parts,
    /// The number of its stage.
    pub(super) stage: usize,
    /// The variables of ARG.
    pub(super) args: BTreeMap<String, String>,
    settings: Settings,
}

impl Work {
    fn config(&self, key: &str) -> &Value {
        &self.parts.config["config"][key]
    }

    /// `NAME=VALUE` of ENV.
    pub(super) fn env(&self) -> Vec<String> {
        dockerfile::strings(self.config("Env"))
    }

    pub(super) fn user(&self) -> &str {
        self.config("User").as_str().unwrap_or_default()
    }

    pub(super) fn workdir(&self) -> &str {
        match self.config("WorkingDir").as_str() {
            Some(dir) if !dir.is_empty() => dir,
            _ => "/",
        }
    }

    /// What a line for the shell is behind.
    pub(super) fn shell(&self) -> Vec<String> {
        dockerfile::shell(&self.parts.config)
    }

    /// A variable: one of ENV comes before one of ARG.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        dockerfile::variable(&self.parts.config, name).or_else(|| self.args.get(name).cloned())
    }

    /// What the next step is made on: layers, as part of the key of what is kept.
    pub(super) fn below(&self) -> &Value {
        &self.parts.config["rootfs"]["diff_ids"]
    }

    fn add(&mut self, step: &image::Step, text: &str) {
        let digest = step.layer.as_ref().map(|layer| layer.digest.as_str());
        author::add_step(&mut self.parts.config, &step.created, text, digest);
        self.parts.layers.extend(step.layer.clone());
    }
}

impl Builder<'_> {
    /// A stage, with all that it needs.
    pub(super) fn stage(&mut self, at: usize) -> Result<Parts> {
        if let Some(parts) = &self.built[at] {
            return Ok(parts.clone());
        }
        let plan = self.plan;
        let stage = &plan.stages[at];
        for need in &stage.needs {
            self.stage(*need)?;
        }
        let work = self.carry_out(at, stage)?;
        self.built[at] = Some(work.parts.clone());
        self.stage_args[at] = work.args;
        Ok(work.parts)
    }

    fn carry_out(&mut self, at: usize, stage: &Stage) -> Result<Work> {
        let what = || format!("line {}: {}", stage.from.number, stage.from.text);
        let mut parts = self.base(&stage.base).with_context(what)?;
        with_path(&mut parts)?;
        let triggers = parts.config["config"]
            .as_object_mut()
            .and_then(|config| config.remove("OnBuild"))
            .and_then(|list| serde_json::from_value(list).ok());
        let triggers = self
            .triggers(triggers.unwrap_or_default(), stage)
            .with_context(what)?;
        let several = self.plan.stages.len() > 1;
        let name = several.then(|| stage.name.clone().unwrap_or_else(|| format!("stage-{at}")));
        let total = 1 + triggers.len() + stage.steps.len();
        self.progress.stage(name, total);
        self.progress.next();
        self.progress.step(&stage.from.text, "");
        let mut work = Work {
            parts,
            stage: at,
            args: match &stage.base {
                Base::Stage(base) => self.stage_args[*base].clone(),
                _ => BTreeMap::new(),
            },
            settings: Settings::default(),
        };
        for step in triggers.iter().chain(&stage.steps) {
            self.progress.next();
            let done = self.step(&mut work, step);
            done.with_context(|| {
                format!("line {}: {}", step.line.number, shortened(&step.line.text))
            })?;
        }
        Ok(work)
    }

    fn base(&mut self, base: &Base) -> Result<Parts> {
        match base {
            Base::Scratch => Ok(Parts::scratch()),
            Base::Stage(stage) => self.stage(*stage),
            Base::Image { name, platform } => self.image(name, platform.as_ref()),
        }
    }

    /// The parts of an image of the store, or else of its registry.
    fn image(&mut self, name: &str, platform: Option<&Platform>) -> Result<Parts> {
        let key = Reference::parse(name).map_or_else(|_| name.to_owned(), |name| name.key());
        let wanted = platform.or(self.args.platform.as_ref());
        let key = (key, wanted.map(Platform::to_string));
        if let Some(parts) = self.images.get(&key) {
            return Ok(parts.clone());
        }
        let known = match self.args.pull {
            true => None,
            false => find_for(self.store, name, wanted)?,
        };
        let image = match known {
            Some((image, note)) => {
                note.iter().for_each(|note| self.progress.say(note));
                image
            }
            None => pull_for(self.state, self.store, name, wanted, self.progress.quiet)?,
        };
        Platform::check(wanted, &image.platform(), &format!("the image {name}"))?;
        let note = foreign_note(name, &image);
        note.iter().for_each(|note| self.progress.say(note));
        let parts = self.store.parts(&image, self.draft)?;
        self.store
            .unpack_layers(&image, &Bars::new(self.progress.quiet))?;
        self.images.insert(key, parts.clone());
        Ok(parts)
    }

    /// What a stage or an image is made of, as `--from` names it.
    pub(super) fn source(&mut self, work: &Work, name: &str) -> Result<Parts> {
        if name.contains('$') {
            return Err(anyhow!("{name}: variables are not replaced here"))
                .hint("name a stage by it: FROM IMAGE AS NAME");
        }
        match self.plan.stage(name, work.stage) {
            Some(stage) => self.stage(stage),
            None => self.image(name, None),
        }
    }

    /// The instructions that the image has for those who build on it.
    fn triggers(&self, texts: Vec<String>, stage: &Stage) -> Result<Vec<Step>> {
        let each = |text: &String| -> Result<Step> {
            let mut line = lines::parse_line(text)?;
            line.number = stage.from.number;
            let instruction = Instruction::read(&line, '\\')?;
            line.text = format!("ONBUILD {}", line.text);
            Ok(Step { line, instruction })
        };
        texts.iter().map(each).collect()
    }

    fn step(&mut self, work: &mut Work, step: &Step) -> Result<()> {
        match &step.instruction {
            Instruction::Run(instruction) => run::run(self, work, step, instruction),
            Instruction::Copy(instruction) => copy::copy(self, work, step, instruction),
            Instruction::Workdir(_) => {
                self.configure(work, &step.instruction)?;
                copy::workdir(self, work, step)
            }
            other => {
                self.progress.step(&step.line.text, "");
                self.configure(work, other)?;
                let done = self.dated(work, &step.line.text)?;
                work.add(&done, &step.line.text);
                Ok(())
            }
        }
    }

    /// Carries out what changes no file.
    fn configure(&mut self, work: &mut Work, instruction: &Instruction) -> Result<()> {
        match instruction {
            Instruction::Maintainer(name) => work.parts.config["author"] = json!(name),
            Instruction::Arg(args) => self.declare(work, args)?,
            other => {
                let shell = work.shell();
                if let Some(setting) = self.with(work, |with| Setting::of(other, with, &shell))? {
                    work.settings.apply(&mut work.parts.config, setting)?;
                }
            }
        }
        Ok(())
    }

    /// ARG: the command line's value, else the default, else what was said before the first stage.
    fn declare(&mut self, work: &mut Work, args: &[(String, Option<String>)]) -> Result<()> {
        for (name, default) in args {
            let value = match (self.build_args.get(name), default) {
                (Some(value), _) => {
                    self.used_args.insert(name.clone());
                    Some(value.clone())
                }
                (None, Some(default)) => Some(self.replaced(work, default)?),
                (None, None) => self.plan.globals.get(name).cloned(),
            };
            work.args.extend(value.map(|value| (name.clone(), value)));
        }
        Ok(())
    }

    /// Replaces variables.
    pub(super) fn with<T>(
        &self,
        work: &Work,
        read: impl FnOnce(&Variables<'_>) -> Result<T>,
    ) -> Result<T> {
        let lookup = |name: &str| work.variable(name);
        read(&Variables::new(self.plan.escape, &lookup))
    }

    /// One word with its variables replaced.
    pub(super) fn replaced(&self, work: &Work, text: &str) -> Result<String> {
        self.with(work, |with| with.word(text))
    }

    /// When what is done now is said to be done.
    fn now(&self) -> Result<String> {
        let time = self.epoch.unwrap_or_else(OffsetDateTime::now_utc);
        time.format(&Rfc3339).context("write the time")
    }

    fn kept(&self, key: &str) -> Result<Option<image::Step>> {
        let kept = match self.args.no_cache {
            true => None,
            false => self.store.kept_step(key, self.draft)?,
        };
        let dated = |step: image::Step| -> Result<image::Step> {
            let created = match self.epoch {
                Some(_) => self.now()?,
                None => step.created,
            };
            Ok(image::Step { created, ..step })
        };
        kept.map(dated).transpose()
    }

    /// A step that changes no file has a date of its own too. It is kept with the image, so that the next
    /// build makes the same.
    fn dated(&mut self, work: &Work, text: &str) -> Result<image::Step> {
        let key = json!({"config": work.parts.config, "line": text});
        let key = Sha256::of(key.to_string().as_bytes());
        if let Some(kept) = self.kept(&key)? {
            return Ok(kept);
        }
        let (created, layer) = (self.now()?, None);
        if self.epoch.is_none() {
            self.dates.insert(key, created.clone());
        }
        Ok(image::Step { created, layer })
    }

    /// Carries out a step that makes a layer, unless there is one under this key.
    pub(super) fn layer(
        &mut self,
        work: &mut Work,
        step: &Step,
        text: &str,
        key: &Value,
        make: impl FnOnce(&mut Self, &Work, Key) -> Result<image::Step>,
    ) -> Result<()> {
        let name = Sha256::of(key.to_string().as_bytes());
        if let Some(kept) = self.kept(&name)? {
            self.progress.step(&step.line.text, "   CACHED");
            work.add(&kept, text);
            return Ok(());
        }
        self.progress.step(&step.line.text, "");
        let since = Instant::now();
        let created = self.now()?;
        let made = make(self, work, Key { name, created })?;
        self.progress.done(since);
        work.add(&made, text);
        Ok(())
    }
}

/// Under which name a step's layer is kept, and when it was made.
pub(super) struct Key {
    pub(super) name: String,
    pub(super) created: String,
}

/// Every image has a search path, so that `ENV PATH=/more:$PATH` means what it says.
fn with_path(parts: &mut Parts) -> Result<()> {
    if dockerfile::variable(&parts.config, "PATH").is_some() {
        return Ok(());
    }
    let path = ("PATH".to_owned(), image::DEFAULT_PATH.to_owned());
    dockerfile::set(&mut parts.config, Setting::Env(vec![path]))
}

/// For a message.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
