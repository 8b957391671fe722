//! What came of the tests: `results.tsv`, a line a test, a column a runtime.

use super::{Table, home};
use crate::frontend::{Known, Skip};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Failed(String),
    Skipped(String),
}

impl Outcome {
    pub(crate) fn of(result: &Result<()>) -> Outcome {
        let Err(error) = result else {
            return Outcome::Ok;
        };
        if let Some(Skip(why)) = error.downcast_ref::<Skip>() {
            return Outcome::Skipped(why.clone());
        }
        let why = match error.downcast_ref::<Known>() {
            Some(Known(why)) => why.clone(),
            None => error.root_cause().to_string(),
        };
        let line = why.lines().next().unwrap_or_default();
        // What was called with which id is of no interest later.
        let line = match line.split_once("`mydocker ") {
            Some(("", _)) => "it does otherwise",
            Some((what, _)) => what.trim_end_matches([':', ' ']),
            None => line,
        };
        Outcome::Failed(line.replace('\t', " ").chars().take(120).collect())
    }

    fn parse(text: &str) -> Result<Outcome> {
        Ok(match text.split_once(": ") {
            None if text == "ok" => Outcome::Ok,
            Some(("failed", why)) => Outcome::Failed(why.to_owned()),
            Some(("skipped", why)) => Outcome::Skipped(why.to_owned()),
            _ => anyhow::bail!("{text:?} is no result"),
        })
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Ok => f.write_str("ok"),
            Outcome::Failed(why) => write!(f, "failed: {why}"),
            Outcome::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// A runtime whose results are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    /// `runc`, as its program is called.
    pub(crate) name: String,
    /// `1.1.5`
    pub(crate) version: String,
}

impl Column {
    /// The column of a program, which is asked for its version.
    pub(crate) fn of(runtime: &Path) -> Result<Column> {
        let output = Command::new(runtime)
            .arg("--version")
            .output()
            .with_context(|| format!("run {} --version", runtime.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().and_then(|line| line.rsplit(' ').next());
        Ok(Column {
            name: runtime
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            version: version.unwrap_or_default().to_owned(),
        })
    }
}

/// The file.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) columns: Vec<Column>,
    rows: BTreeMap<String, Vec<Option<Outcome>>>,
}

impl Results {
    pub(crate) fn read() -> Result<Results> {
        let path = home().join("results.tsv");
        let text = std::fs::read_to_string(&path).context("read the results")?;
        let mut lines = text.lines().map(|line| line.split('\t'));
        let mut results = Results::default();
        for column in lines.next().into_iter().flatten().skip(1) {
            let (name, version) = column.split_once(' ').unwrap_or((column, ""));
            results.columns.push(Column {
                name: name.to_owned(),
                version: version.to_owned(),
            });
        }
        for mut cells in lines {
            let test = cells.next().unwrap_or_default().to_owned();
            let cells = cells
                .map(|cell| (!cell.is_empty()).then(|| Outcome::parse(cell)).transpose())
                .collect::<Result<Vec<_>>>()
                .with_context(|| format!("results.tsv: {test}"))?;
            results.rows.insert(test, cells);
        }
        Ok(results)
    }

    /// What is known of a test with the runtime of a column.
    pub(crate) fn get(&self, test: &str, column: usize) -> Option<&Outcome> {
        self.rows.get(test)?.get(column)?.as_ref()
    }

    /// Every test of the table has a result of every runtime.
    pub(crate) fn complete(self, table: &Table) -> Result<Results> {
        ensure!(!self.columns.is_empty(), "there are no results");
        for test in table.tests() {
            for (index, column) in self.columns.iter().enumerate() {
                ensure!(
                    self.get(test, index).is_some(),
                    "no result of {test:?} with {}: cargo test --test conformance -- --clauses",
                    column.name
                );
            }
        }
        Ok(self)
    }

    /// Takes the results of a run, and drops tests that the table does not name any more.
    pub(crate) fn record(
        &mut self,
        table: &Table,
        column: Column,
        outcomes: &[(String, Outcome)],
    ) -> Result<()> {
        let known = self.columns.iter().position(|one| one.name == column.name);
        let index = known.unwrap_or(self.columns.len());
        match known {
            Some(index) => self.columns[index] = column,
            None => self.columns.push(column),
        }
        let mut rows = BTreeMap::new();
        for test in table.tests() {
            let mut cells = self.rows.remove(test).unwrap_or_default();
            cells.resize(self.columns.len(), None);
            let new = outcomes.iter().find(|(name, _)| name == test);
            if let Some((_, outcome)) = new {
                cells[index] = Some(outcome.clone());
            }
            rows.insert(test.to_owned(), cells);
        }
        self.rows = rows;
        self.write()
    }

    fn write(&self) -> Result<()> {
        let heads = self.columns.iter();
        let heads = heads.map(|column| format!("\t{} {}", column.name, column.version));
        let mut text = format!("test{}\n", heads.collect::<String>());
        for (test, cells) in &self.rows {
            text += test;
            for cell in cells {
                text.push('\t');
                text += &cell.as_ref().map(ToString::to_string).unwrap_or_default();
            }
            text.push('\n');
        }
        std::fs::write(home().join("results.tsv"), text).context("write the results")
    }

    /// A run of ours must have come to what is told of it. What a machine lacks says nothing.
    pub(crate) fn agree(&self, name: &str, outcomes: &[(String, Outcome)]) -> Result<()> {
        let index = self.columns.iter().position(|column| column.name == name);
        let index = index.with_context(|| format!("results.tsv has no column {name}"))?;
        for (test, outcome) in outcomes {
            let differs = match (self.get(test, index), outcome) {
                (None | Some(Outcome::Skipped(_)), _) | (_, Outcome::Skipped(_)) => false,
                (Some(told), found) => matches!(told, Outcome::Ok) != matches!(found, Outcome::Ok),
            };
            ensure!(
                !differs,
                "{test:?} is {outcome}: cargo test --test conformance -- --clauses"
            );
        }
        Ok(())
    }
}
