//! `doctor`: what this machine and this user can do, all at once, and the line that makes good what is
//! missing. It looks by doing (a user namespace, an overlay, files of the store) where that leaves
//! nothing behind, since switches and policies are many.

use super::cli::{Doctor, DoctorFormat, Global};
use super::doctor_checks as checks;
use super::print;
use super::state_dirs::State;
use anyhow::Result;
use serde_json::{Value, json};

/// How well something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grade {
    /// As it should be.
    Ok,
    /// Containers run, and something that they could have is not to be had.
    Limited,
    /// Containers cannot run.
    Missing,
}

impl Grade {
    fn word(self) -> &'static str {
        match self {
            Grade::Ok => "ok",
            Grade::Limited => "limited",
            Grade::Missing => "missing",
        }
    }
}

/// What was found of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    grade: Grade,
    what: &'static str,
    detail: String,
    fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(what: &'static str, detail: impl Into<String>) -> Finding {
        Finding {
            grade: Grade::Ok,
            what,
            detail: detail.into(),
            fix: None,
        }
    }

    /// Something less than it could be, and what makes it good.
    pub(super) fn limited(
        what: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding {
            grade: Grade::Limited,
            fix: Some(fix.into()),
            ..Finding::ok(what, detail)
        }
    }

    /// Something without which there are no containers, and what makes it good.
    pub(super) fn missing(
        what: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding {
            grade: Grade::Missing,
            ..Finding::limited(what, detail, fix)
        }
    }
}

/// `mydocker doctor`: 1 if containers cannot run.
pub fn doctor(state: &State, global: &Global, args: &Doctor) -> Result<i32> {
    let found = checks::all(state, global);
    let text = match args.format {
        DoctorFormat::Text => lines(&found),
        DoctorFormat::Json => format!("{}\n", object(&found)),
    };
    print(&text)?;
    Ok(i32::from(!is_usable(&found)))
}

fn is_usable(found: &[Finding]) -> bool {
    found.iter().all(|finding| finding.grade != Grade::Missing)
}

/// A line for each finding, the one that mends it below, and what it comes to.
fn lines(found: &[Finding]) -> String {
    let mut text = String::new();
    for finding in found {
        let (word, what, detail) = (finding.grade.word(), finding.what, &finding.detail);
        text.push_str(&format!("{word:<8} {what}: {detail}\n"));
        if let Some(fix) = &finding.fix {
            text.push_str(&format!("         hint: {fix}\n"));
        }
    }
    text.push_str(match is_usable(found) {
        true => "containers can run\n",
        false => "containers cannot run: see what is missing\n",
    });
    text
}

fn object(found: &[Finding]) -> Value {
    let checks: Vec<Value> = found
        .iter()
        .map(|finding| {
            json!({
                "Check": finding.what, "Status": finding.grade.word(),
                "Detail": finding.detail, "Hint": finding.fix,
            })
        })
        .collect();
    json!({"Usable": is_usable(found), "Checks": checks})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_decides() {
        let fine = Finding::ok("kernel", "Linux 6.1");
        let less = Finding::limited("cgroup", "none", "do this");
        let none = Finding::missing("overlay", "EPERM", "do that");
        let two = [fine.clone(), less.clone()];
        assert_eq!(
            lines(&two),
            "ok       kernel: Linux 6.1\nlimited  cgroup: none\n         hint: do this\ncontainers can run\n"
        );
        let all = [fine, less, none];
        assert!(is_usable(&two) && !is_usable(&all));
        let object = object(&all);
        assert_eq!(object["Usable"], false);
        assert_eq!(object["Checks"][2]["Status"], "missing");
        assert_eq!(object["Checks"][0]["Hint"], Value::Null);
    }
}
