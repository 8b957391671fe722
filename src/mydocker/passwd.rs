//! Who the caller is, by passwd(5). Read as a file: what else the C library may ask (NSS) is not in a
//! static program.

use crate::linux::idmap::parse;
use nix::unistd::{getegid, geteuid};
use std::path::PathBuf;

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// By which /etc/subuid knows it: the number if there is no other.
    pub(super) name: String,
}

impl User {
    /// The one that this process acts for.
    pub(super) fn caller() -> User {
        let uid = geteuid().as_raw();
        let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let by_table = field(&table, uid, 0).map(str::to_owned);
        // Accounts of a directory service are in no file.
        let by_session = || std::env::var("USER").ok().filter(|name| !name.is_empty());
        User {
            uid,
            gid: getegid().as_raw(),
            name: by_table
                .or_else(by_session)
                .unwrap_or_else(|| uid.to_string()),
        }
    }
}

/// Name and home of whom the root of this user namespace is outside of it.
pub(super) fn of_caller() -> (String, Option<String>) {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let uid = parse(&map).first().map_or(0, |[_, outside, _]| *outside);
    let uid = u32::try_from(uid).unwrap_or(0);
    let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let field = |number| field(&table, uid, number).map(str::to_owned);
    let by_session = |key: &str| std::env::var(key).ok().filter(|text| !text.is_empty());
    let name = field(0).or_else(|| by_session("USER"));
    let home = field(5).or_else(|| by_session("HOME"));
    (name.unwrap_or_else(|| format!("user-{uid}")), home)
}

/// The caller's home directory: `HOME`, or what passwd(5) says.
pub(super) fn home() -> Option<PathBuf> {
    let named = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let by_table = || {
        let table = std::fs::read_to_string("/etc/passwd").ok()?;
        field(&table, geteuid().as_raw(), 5).map(PathBuf::from)
    };
    named
        .map(PathBuf::from)
        .or_else(by_table)
        .filter(|home| home.is_absolute())
}

/// A field of the line of this user.
fn field(table: &str, uid: u32, number: usize) -> Option<&str> {
    let uid = uid.to_string();
    let mut lines = table.lines();
    let line = lines.find(|line| line.split(':').nth(2) == Some(uid.as_str()))?;
    line.split(':').nth(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_of_the_user() {
        let table = "root:x:0:0:root:/root:/bin/sh\nme:x:1000:100::/home/me:/bin/sh\n";
        assert_eq!(field(table, 1000, 0), Some("me"));
        assert_eq!(field(table, 1000, 5), Some("/home/me"));
        assert_eq!(field(table, 7, 0), None);
    }
}
