//! The device rules as writes to v1's `devices.allow` and `devices.deny` (the kernel's
//! Documentation/admin-guide/cgroup-v1/devices.rst). Pure, but for [`apply`].

use super::{Kind, MKNOD, Rule, v1_text};
use crate::error::ResultExt;
use anyhow::{Context, Result, anyhow};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

/// What v1 can hold: one default, and exceptions from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct V1List {
    pub(super) allow: bool,
    pub(super) exceptions: Vec<Rule>,
}

/// Folds the rules into v1's form. The kernel's list cannot take a part out of a wildcard, and
/// would silently ignore the attempt.
pub(super) fn v1_list(rules: &[Rule]) -> Result<V1List> {
    let mut list = V1List {
        allow: false,
        exceptions: Vec::new(),
    };
    for rule in rules {
        if rule.is_catch_all() {
            list.allow = rule.allow;
            list.exceptions.clear();
            continue;
        }
        if rule.allow != list.allow {
            add_exception(&mut list.exceptions, *rule);
            continue;
        }
        for exception in &mut list.exceptions {
            if !rule.overlaps(exception) || rule.access & exception.access == 0 {
                continue;
            }
            // Docker denies single devices so. Their use is what it means to deny, and nothing allows
            // that; that any node may be made is one of the defaults, which no list can take a part of.
            if exception.access == MKNOD && exception.is_default() && !rule.covers(exception) {
                continue;
            }
            if !rule.covers(exception) {
                let verb = if rule.allow { "allowed" } else { "denied" };
                return Err(anyhow!(
                    "linux.resources.devices: {} cannot be {verb} out of the wider rule {}",
                    v1_text(rule),
                    v1_text(exception)
                ))
                .hint("cgroup v1 cannot express that; list the devices one by one");
            }
            exception.access &= !rule.access;
        }
        list.exceptions.retain(|e| e.access != 0);
    }
    // The order has no meaning, but the kernel shows it: the config's own rules come first.
    list.exceptions.sort_by_key(Rule::is_default);
    Ok(list)
}

fn add_exception(exceptions: &mut Vec<Rule>, rule: Rule) {
    let kinds = match rule.kind {
        Some(kind) => vec![kind],
        None => vec![Kind::Block, Kind::Char],
    };
    for kind in kinds {
        let rule = Rule {
            kind: Some(kind),
            ..rule
        };
        let same =
            |e: &&mut Rule| (e.kind, e.major, e.minor) == (rule.kind, rule.major, rule.minor);
        match exceptions.iter_mut().find(same) {
            Some(known) => known.access |= rule.access,
            None => exceptions.push(rule),
        }
    }
}

/// The writes, each a file and a rule, that make `new` of `old`, or of whatever there is.
pub(super) fn writes(old: Option<&V1List>, new: &V1List) -> Vec<(&'static str, String)> {
    let [usual, exception] = match new.allow {
        true => ["devices.allow", "devices.deny"],
        false => ["devices.deny", "devices.allow"],
    };
    let mut writes = Vec::new();
    let known: &[Rule] = match old {
        Some(old) if old.allow == new.allow => &old.exceptions,
        _ => {
            writes.push((usual, "a".to_owned()));
            &[]
        }
    };
    // What the first has and the second has not.
    let beyond = |first: &[Rule], second: &[Rule]| {
        let rest = first.iter().map(|rule| {
            let same = |other: &&Rule| {
                (other.kind, other.major, other.minor) == (rule.kind, rule.major, rule.minor)
            };
            let access = second.iter().find(same).map_or(0, |other| other.access);
            Rule {
                access: rule.access & !access,
                ..*rule
            }
        });
        let rest = rest.filter(|rule| rule.access != 0);
        rest.map(|rule| v1_text(&rule)).collect::<Vec<_>>()
    };
    // Single devices may take a wildcard's place, so what comes is first.
    for text in beyond(&new.exceptions, known) {
        writes.push((exception, text));
    }
    for text in beyond(known, &new.exceptions) {
        writes.push((usual, text));
    }
    writes
}

/// Makes `new` of `old`, or leaves `old`.
pub(super) fn change(dir: &Path, old: &V1List, new: &V1List) -> Result<()> {
    apply(dir, &writes(Some(old), new)).inspect_err(|_| {
        for write in writes(Some(new), old) {
            // The first error is the one to tell; a write may undo what was never done.
            let _ = apply(dir, &[write]);
        }
    })
}

/// Does the writes.
pub(super) fn apply(dir: &Path, writes: &[(&str, String)]) -> Result<()> {
    // Mostly many to one file.
    let mut last: Option<(&str, File)> = None;
    for (name, value) in writes {
        let path = dir.join(name);
        let mut file = match last {
            Some((known, file)) if known == *name => file,
            _ => {
                let file = OpenOptions::new().write(true).open(&path);
                file.with_context(|| format!("open {}", path.display()))?
            }
        };
        file.write_all(value.as_bytes())
            .with_context(|| format!("write {value:?} to {}", path.display()))?;
        last = Some((name, file));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::rules;
    use super::*;

    fn list(json: &str) -> V1List {
        let config: Vec<_> = serde_json::from_str(json).expect("rules");
        v1_list(&rules(&config).expect("rules")).expect("list")
    }

    #[test]
    fn an_update_writes_what_differs() {
        let some =
            r#"[{"allow":false},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]"#;
        let other = r#"[{"allow":false},{"allow":true,"type":"c","major":10,"minor":229,"access":"rm"},
            {"allow":true,"type":"b","major":7,"access":"r"}]"#;
        let changes = writes(Some(&list(some)), &list(other));
        let wanted = [
            ("devices.allow", "c 10:229 m"),
            ("devices.allow", "b 7:* r"),
            ("devices.deny", "c 10:229 w"),
        ];
        assert_eq!(changes, wanted.map(|(file, text)| (file, text.to_owned())));
        assert_eq!(writes(Some(&list(some)), &list(some)), []);
        let all = writes(Some(&list(some)), &list(r#"[{"allow":true}]"#));
        assert_eq!(all, [("devices.allow", "a".to_owned())]);
        assert_eq!(
            writes(None, &list(some))[0],
            ("devices.deny", "a".to_owned())
        );
    }
}
