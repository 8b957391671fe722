//! The OCI runtime specification 1.3.0, clause by clause: what binds a runtime on Linux, the tests
//! that show it, and what came of them with three runtimes.
//!
//! ```text
//! table.txt     the clauses, in words of our own, and their tests       written by hand
//! results.tsv   test × runtime: ok, failed or skipped, and why          --clauses [--runtime PATH]
//! CLAUSES.md    both together; the READMEs hold the counts              --clauses, --clauses-text
//! ```
//!
//! Each run of the whole suite compares its own results with `results.tsv`, and the texts with what
//! would be written. With `--clauses`, tests that are skipped for a runtime by its name are run all
//! the same: what it cannot do is measured, not believed.

mod results;
mod text;

use crate::Test;
use anyhow::{Context, Result, bail, ensure};
pub(crate) use results::{Outcome, Results};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What stands before the name of a unit test: `unit linux/rdt.rs values_are_checked`.
const UNIT: &str = "unit ";

/// One demand of the specification.
#[derive(Debug)]
pub(crate) struct Clause {
    /// `runtime.md`
    pub(crate) document: String,
    /// `runtimeState`
    pub(crate) anchor: String,
    /// `MUST`, `MUST NOT`, `REQUIRED`, `SHOULD` and so on.
    pub(crate) level: String,
    /// What is demanded, in our words.
    pub(crate) words: String,
    /// How it is shown.
    pub(crate) proof: Proof,
}

/// What there is for a clause.
#[derive(Debug)]
pub(crate) enum Proof {
    /// Tests by their names.
    Tests(Vec<String>),
    /// Why there can be none.
    None(String),
}

impl Clause {
    /// Its tests; none if there can be none.
    pub(crate) fn tests(&self) -> &[String] {
        match &self.proof {
            Proof::Tests(names) => names,
            Proof::None(_) => &[],
        }
    }
}

/// All clauses, in the order of the documents.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) clauses: Vec<Clause>,
}

pub(super) fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/clauses")
}

impl Table {
    /// Reads `table.txt`: a line `document#anchor` before the clauses of that section, each of them a
    /// line `LEVEL | words | test + test`, or `LEVEL | words | - why there is no test`.
    pub(crate) fn read() -> Result<Table> {
        let path = home().join("table.txt");
        let text = std::fs::read_to_string(&path).context("read the table of clauses")?;
        let mut clauses = Vec::new();
        let mut place = None;
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with("//") {
                continue;
            }
            match (line.split(" | ").collect::<Vec<_>>().as_slice(), place) {
                ([section], _) => {
                    place = section.split_once('#');
                    ensure!(place.is_some(), "table.txt:{}: no anchor", index + 1);
                }
                ([level, words, proof], Some((document, anchor))) => clauses.push(Clause {
                    document: document.to_owned(),
                    anchor: anchor.to_owned(),
                    level: (*level).to_owned(),
                    words: (*words).to_owned(),
                    proof: Proof::parse(proof),
                }),
                _ => bail!("table.txt:{}: not LEVEL | words | tests", index + 1),
            }
        }
        Ok(Table { clauses })
    }

    /// The names of all tests that are run, each once, in the order of the clauses.
    pub(crate) fn tests(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let names = self.clauses.iter().flat_map(Clause::tests);
        names
            .map(String::as_str)
            .filter(|name| !name.starts_with(UNIT) && seen.insert(*name))
            .collect()
    }

    /// Every test that is named is there.
    fn names_tests(&self, known: &BTreeSet<String>) -> Result<()> {
        for name in self.clauses.iter().flat_map(Clause::tests) {
            match name.strip_prefix(UNIT) {
                Some(unit) => is_unit_test(unit)?,
                None => ensure!(known.contains(name), "there is no test {name:?}"),
            }
        }
        Ok(())
    }
}

impl Proof {
    fn parse(text: &str) -> Proof {
        match text.strip_prefix("- ") {
            Some(why) => Proof::None(why.to_owned()),
            None => Proof::Tests(text.split(" + ").map(str::to_owned).collect()),
        }
    }
}

/// `FILE FUNCTION`, with the file below `src/`.
fn is_unit_test(unit: &str) -> Result<()> {
    let (file, function) = unit
        .split_once(' ')
        .with_context(|| format!("{unit:?} is not FILE FUNCTION"))?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let mut lines = text.lines().map(str::trim);
    let wanted = format!("fn {function}(");
    let found = lines.any(|line| line == "#[test]") && lines.any(|line| line.starts_with(&wanted));
    ensure!(found, "{file} has no test {function}");
    Ok(())
}

/// That the table, the tests, the results and the texts belong together.
pub(crate) fn tests(others: &[Test]) -> Vec<Test> {
    let known: BTreeSet<String> = others.iter().map(|test| test.name.clone()).collect();
    let test = |name: &str, run: crate::Body| Test {
        name: format!("clauses: {name}"),
        run,
    };
    vec![
        test(
            "every test that the table names is there",
            Box::new(move |_| Table::read()?.names_tests(&known)),
        ),
        test(
            "every clause has its results, and the texts tell them",
            Box::new(|_| {
                let table = Table::read()?;
                text::compare(&table, &Results::read()?.complete(&table)?)
            }),
        ),
    ]
}

/// Keeps what the tests of the table came to with a runtime, and writes the texts.
pub(crate) fn record(runtime: &Path, outcomes: &[(String, Outcome)]) -> Result<()> {
    let table = Table::read()?;
    let mut results = Results::read().unwrap_or_default();
    results.record(&table, results::Column::of(runtime)?, outcomes)?;
    text::write(&table, &results)
}

/// What our own runtime did in a run of everything must be what is told of it.
pub(crate) fn agree(outcomes: &[(String, Outcome)]) -> Result<()> {
    Results::read()?.agree("runtime", outcomes)
}

/// Writes the texts anew.
pub(crate) fn write_texts() -> Result<()> {
    let table = Table::read()?;
    text::write(&table, &Results::read()?)
}
