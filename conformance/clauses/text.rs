//! The texts that are made of the table and the results: `CLAUSES.md`, and a part of each README.

use super::{Clause, Outcome, Proof, Results, Table, UNIT, home};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

const SPEC: &str = "https://github.com/opencontainers/runtime-spec/blob/v1.3.0";
const BEGIN: &str = "<!-- clauses: made by --clauses -->\n";
const END: &str = "<!-- /clauses -->\n";

/// What a runtime does with a clause.
enum Verdict {
    Shown,
    Broken(String),
    Skipped(String),
    NotTested,
}

fn verdict(clause: &Clause, results: &Results, column: usize) -> Verdict {
    let ours = results.columns[column].name == "runtime";
    let mut skipped = Verdict::NotTested;
    let mut shown = false;
    for test in clause.tests() {
        let outcome = match (test.starts_with(UNIT), ours) {
            (true, true) => Outcome::Ok,
            (true, false) => Outcome::Skipped("a unit test of ours".to_owned()),
            (false, _) => match results.get(test, column) {
                Some(outcome) => outcome.clone(),
                None => continue,
            },
        };
        match outcome {
            Outcome::Failed(why) => return Verdict::Broken(why),
            Outcome::Skipped(why) => skipped = Verdict::Skipped(why),
            Outcome::Ok => shown = true,
        }
    }
    match shown {
        true => Verdict::Shown,
        false => skipped,
    }
}

impl Verdict {
    fn cell(&self) -> String {
        match self {
            Verdict::Shown => "✓".to_owned(),
            Verdict::Broken(why) => format!("✗ {}", escaped(why)),
            Verdict::Skipped(why) => format!("– {}", escaped(why)),
            Verdict::NotTested => String::new(),
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "\\<")
}

fn documents(table: &Table) -> Vec<&str> {
    let mut all: Vec<&str> = Vec::new();
    for clause in &table.clauses {
        if all.last() != Some(&clause.document.as_str()) {
            all.push(&clause.document);
        }
    }
    all
}

/// `CLAUSES.md`
fn whole(table: &Table, results: &Results) -> String {
    let heads = results.columns.iter();
    let heads: Vec<String> = heads
        .map(|column| format!("{} {}", column.name, column.version))
        .collect();
    let mut text = format!(
        "# The OCI runtime specification 1.3.0, clause by clause

Made by `cargo test --test conformance -- --clauses` of `table.txt` and `results.tsv`; change those.

What the documents demand of a runtime on Linux, in our own words, and the tests that show it. ✓: the
tests passed; ✗: one failed, and why; –: skipped, and why. With {}, as Debian 12 has the latter two.
What binds only the author of a config.json is here where a runtime can show that it minds: a value
that is invalid must be an error (config.md, \"Valid values\").

{}",
        heads.join(", "),
        counts(table, results, "document", "clauses", "no test possible"),
    );
    let mut section = ("", "");
    for clause in &table.clauses {
        if section.0 != clause.document {
            text += &format!("\n## {}\n", clause.document);
        }
        if section != (&clause.document, &clause.anchor) {
            section = (&clause.document, &clause.anchor);
            text += &format!(
                "\n[{0}]({SPEC}/{1}#{0})\n\n| level | clause | tests | {2} |\n|---|---|---|{3}\n",
                clause.anchor,
                clause.document,
                heads.join(" | "),
                "---|".repeat(heads.len()),
            );
        }
        text += &line(clause, results);
    }
    text
}

fn line(clause: &Clause, results: &Results) -> String {
    let proof = match &clause.proof {
        Proof::Tests(names) => names.join("; "),
        Proof::None(why) => format!("none: {why}"),
    };
    let mut line = format!(
        "| {} | {} | {} |",
        clause.level,
        escaped(&clause.words),
        escaped(&proof)
    );
    for column in 0..results.columns.len() {
        line += &format!(" {} |", verdict(clause, results, column).cell());
    }
    line + "\n"
}

/// How many clauses of each document each runtime keeps.
fn counts(table: &Table, results: &Results, document: &str, clauses: &str, none: &str) -> String {
    let mut text = format!("| {document} | {clauses} | {none} |");
    for column in &results.columns {
        text += &format!(" {} {} |", column.name, column.version);
    }
    text += &format!("\n|---|---|---|{}\n", "---|".repeat(results.columns.len()));
    for document in documents(table) {
        let all = || table.clauses.iter().filter(|c| c.document == document);
        let untested = all().filter(|c| c.tests().is_empty()).count();
        text += &format!("| {document} | {} | {untested} |", all().count());
        for column in 0..results.columns.len() {
            let mut numbers = [0; 3];
            for clause in all() {
                match verdict(clause, results, column) {
                    Verdict::Shown => numbers[0] += 1,
                    Verdict::Broken(_) => numbers[1] += 1,
                    Verdict::Skipped(_) => numbers[2] += 1,
                    Verdict::NotTested => {}
                }
            }
            let [shown, broken, skipped] = numbers;
            text += &format!(" {shown} ✓ {broken} ✗ {skipped} – |");
        }
        text.push('\n');
    }
    text
}

/// Every text with its path.
fn texts(table: &Table, results: &Results) -> Result<Vec<(PathBuf, String)>> {
    let readme = |name: &str, part: String| -> Result<(PathBuf, String)> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let text = std::fs::read_to_string(&path).with_context(|| name.to_owned())?;
        let (before, rest) = text.split_once(BEGIN).with_context(|| no_place(name))?;
        let (_, after) = rest.split_once(END).with_context(|| no_place(name))?;
        Ok((path, format!("{before}{BEGIN}{part}{END}{after}")))
    };
    Ok(vec![
        (home().join("CLAUSES.md"), whole(table, results)),
        readme(
            "README.md",
            counts(table, results, "document", "clauses", "no test possible"),
        )?,
        readme(
            "README.zh-CN.md",
            counts(table, results, "文档", "条款", "无法测试"),
        )?,
    ])
}

fn no_place(name: &str) -> String {
    format!("{name} has no place for the clauses")
}

/// The files must hold what would be written.
pub(super) fn compare(table: &Table, results: &Results) -> Result<()> {
    for (path, text) in texts(table, results)? {
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        ensure!(
            found == text,
            "{} is out of date: cargo test --test conformance -- --clauses-text",
            path.display()
        );
    }
    Ok(())
}

pub(super) fn write(table: &Table, results: &Results) -> Result<()> {
    for (path, text) in texts(table, results)? {
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
