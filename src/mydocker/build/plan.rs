//! The stages of a Dockerfile, before anything is done: which there are, what each begins with, and
//! which other ones it needs.

use super::mount::Mount;
use crate::error::ResultExt;
use crate::mydocker::dockerfile::instruction::From;
use crate::mydocker::dockerfile::lines::{self, Line};
use crate::mydocker::dockerfile::{Instruction, Variables};
use crate::mydocker::platform::Platform;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::collections::BTreeMap;

/// A Dockerfile, read.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) escape: char,
    /// The variables before the first stage, with their values.
    pub(super) globals: BTreeMap<String, String>,
    pub(super) stages: Vec<Stage>,
    /// The one that was asked for.
    pub(super) target: usize,
}

/// From one FROM to the next.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) name: Option<String>,
    pub(super) from: Line,
    pub(super) base: Base,
    pub(super) steps: Vec<Step>,
    /// Earlier stages: the one that it begins with, and those that it copies from.
    pub(super) needs: Vec<usize>,
}

/// What a stage begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    Scratch,
    Stage(usize),
    Image {
        name: String,
        /// Of the image, if it is asked for.
        platform: Option<Platform>,
    },
}

/// An instruction, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) line: Line,
    pub(super) instruction: Instruction,
}

impl Plan {
    /// Reads a Dockerfile. `build_args` are those of the command line; `target` is the name or the
    /// number of a stage, and else the last one is meant.
    pub(super) fn new(
        text: &str,
        build_args: &BTreeMap<String, String>,
        target: Option<&str>,
    ) -> Result<Plan> {
        let file = lines::parse(text)?;
        let mut plan = Plan {
            escape: file.escape,
            globals: platforms(),
            stages: Vec::new(),
            target: 0,
        };
        for line in file.lines {
            let what = format!("line {}: {}", line.number, line.keyword);
            plan.add(line, build_args).with_context(|| what)?;
        }
        if plan.stages.is_empty() {
            return Err(anyhow!("it has no FROM")).hint("the first instruction is FROM IMAGE");
        }
        plan.target = match target {
            None => plan.stages.len() - 1,
            Some(name) => plan
                .stage(name, plan.stages.len())
                .with_context(|| format!("--target {name}: there is no such stage"))
                .hint("FROM IMAGE AS NAME names one")?,
        };
        Ok(plan)
    }

    fn add(&mut self, line: Line, build_args: &BTreeMap<String, String>) -> Result<()> {
        let instruction = Instruction::read(&line, self.escape)?;
        let here = self.stages.len();
        match (&instruction, here) {
            (Instruction::From(from), _) => {
                let stage = self.begin(from, line)?;
                self.stages.push(stage);
                return Ok(());
            }
            (Instruction::Arg(args), 0) => {
                for (name, default) in args {
                    let value = match (build_args.get(name), default) {
                        (Some(value), _) => Some(value.clone()),
                        (None, Some(default)) => Some(self.replaced(default)?),
                        (None, None) => None,
                    };
                    self.globals
                        .extend(value.map(|value| (name.clone(), value)));
                }
                return Ok(());
            }
            (_, 0) => {
                return Err(anyhow!("it stands before the first FROM"))
                    .hint("only ARG may stand there");
            }
            _ => {}
        }
        // The stage that is being read may not be meant.
        let needs = match &instruction {
            Instruction::Copy(copy) => copy.from.iter().cloned().collect(),
            Instruction::Run(run) => mounts_from(&run.mounts)?,
            _ => Vec::new(),
        };
        let needs: Vec<usize> = needs
            .iter()
            .filter_map(|name| self.stage(name, here - 1))
            .collect();
        if let Some(stage) = self.stages.last_mut() {
            stage.needs.extend(needs);
            stage.steps.push(Step { line, instruction });
        }
        Ok(())
    }

    fn begin(&self, from: &From, line: Line) -> Result<Stage> {
        let image = self.replaced(&from.image)?;
        ensure!(!image.is_empty(), "the name of the image is empty");
        let platform = match &from.platform {
            Some(asked) => Some(platform(&self.replaced(asked)?)?),
            None => None,
        };
        if let Some(name) = &from.name {
            let taken = self
                .stages
                .iter()
                .any(|stage| stage.name.as_ref() == Some(name));
            ensure!(!taken, "there is a stage {name} already");
        }
        let earlier = self.named(&image, self.stages.len());
        let base = match (image.as_str(), earlier) {
            ("scratch", None) => Base::Scratch,
            (_, Some(stage)) => Base::Stage(stage),
            _ => Base::Image {
                name: image,
                platform,
            },
        };
        Ok(Stage {
            name: from.name.clone(),
            from: line,
            base,
            steps: Vec::new(),
            needs: earlier.into_iter().collect(),
        })
    }

    /// Replaces the variables in front of the first stage.
    fn replaced(&self, text: &str) -> Result<String> {
        let lookup = |name: &str| self.globals.get(name).cloned();
        Variables::new(self.escape, &lookup).word(text)
    }

    fn named(&self, name: &str, before: usize) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        let stages = &self.stages[..before];
        stages
            .iter()
            .position(|stage| stage.name.as_ref() == Some(&name))
    }

    /// The stage of a name or a number, of those before another one.
    pub(super) fn stage(&self, name: &str, before: usize) -> Option<usize> {
        let number = || name.parse().ok().filter(|number: &usize| *number < before);
        self.named(name, before).or_else(number)
    }
}

/// The platform that FROM asks for. Its programs may be run.
fn platform(text: &str) -> Result<Platform> {
    let platform = Platform::parse(text).map_err(|why| anyhow!("--platform {text:?}: {why}"))?;
    platform.check_machine()?;
    Ok(platform)
}

/// What RUN --mount=from= names.
fn mounts_from(mounts: &[String]) -> Result<Vec<String>> {
    let mut from = Vec::new();
    for text in mounts {
        from.extend(Mount::parse(text, &|text| Ok(text.to_owned()))?.from);
    }
    Ok(from)
}

/// The variables that are there before any ARG.
fn platforms() -> BTreeMap<String, String> {
    let machine = Platform::of_machine();
    let mut all = BTreeMap::new();
    for side in ["TARGET", "BUILD"] {
        for (name, value) in [
            ("PLATFORM", machine.to_string()),
            ("OS", machine.os.clone()),
            ("ARCH", machine.architecture.clone()),
            ("VARIANT", machine.variant.clone()),
        ] {
            all.insert(format!("{side}{name}"), value);
        }
    }
    all
}

/// `NAME=VALUE`, or `NAME` for the caller's value: the options --build-arg.
pub(super) fn build_args(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let mut args = BTreeMap::new();
    for text in texts {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), std::env::var(text).ok()),
        };
        if name.is_empty() {
            bail!("--build-arg {text:?}: it is NAME=VALUE");
        }
        args.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::message;

    fn plan(text: &str, target: Option<&str>) -> Result<Plan> {
        let args = BTreeMap::from([("v".to_owned(), "2".to_owned())]);
        Plan::new(text, &args, target)
    }

    #[test]
    fn stages_know_what_they_need() {
        let text = "ARG v=1\nARG image=busybox:${v}\nFROM $image AS one\nFROM scratch AS Two\n\
                    COPY --from=one /a /\nFROM one\nCOPY --from=1 /a /\n\
                    RUN --mount=from=two,target=/x true\nCOPY --from=other /a /";
        let made = plan(text, None).unwrap();
        let bases: Vec<&Base> = made.stages.iter().map(|stage| &stage.base).collect();
        let image = |name: &str, platform| Base::Image {
            name: name.to_owned(),
            platform,
        };
        let first = image("busybox:2", None);
        assert_eq!(bases, [&first, &Base::Scratch, &Base::Stage(0)]);
        assert_eq!(made.stages[1].needs, [0]);
        assert_eq!(made.stages[2].needs, [0, 1, 1]);
        assert_eq!(made.target, 2);
        for (target, expected) in [("two", 1), ("TWO", 1), ("0", 0)] {
            assert_eq!(plan(text, Some(target)).unwrap().target, expected);
        }
        let arch = plan("FROM --platform=$BUILDPLATFORM a-$TARGETARCH", None).unwrap();
        let machine = Platform::of_machine();
        let name = format!("a-{}", machine.architecture);
        assert_eq!(arch.stages[0].base, image(&name, Some(machine)));
    }

    #[test]
    fn what_cannot_be_is_told_before_anything_is_done() {
        for (text, target, why) in [
            ("", None, "no FROM"),
            ("ARG a", None, "no FROM"),
            ("RUN a\nFROM b", None, "line 1: RUN: it stands before"),
            (
                "FROM $none",
                None,
                "line 1: FROM: the name of the image is empty",
            ),
            (
                "FROM a AS x\nFROM b AS X",
                None,
                "line 2: FROM: there is a stage x",
            ),
            (
                "FROM --platform=linux/s390x a",
                None,
                "--platform linux/s390x",
            ),
            ("FROM a", Some("b"), "--target b"),
            ("FROM a", Some("1"), "--target 1"),
            ("FROM a\n\nFOO b", None, "line 3: FOO: there is no such"),
            (
                "FROM a\nRUN --mount=type=x,target=/a b",
                None,
                "line 2: RUN",
            ),
        ] {
            let error = message(&plan(text, target).unwrap_err());
            assert!(error.contains(why), "{text:?}: {error}");
        }
        assert!(build_args(&["=x".to_owned()]).is_err());
    }
}
