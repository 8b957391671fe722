//! The words of `mounts[].options` (config.md, "Mounts"): one table, from which `features` is
//! printed too.

use crate::sys::mount as sys;
use nix::mount::MsFlags;

/// What the options of one mount come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `MS_*` for a new file system.
    pub flags: u64,
    /// `MOUNT_ATTR_*` to set and to clear on the mount alone.
    pub set: u64,
    /// See `set`.
    pub clear: u64,
    /// The same with all mounts below it (`rro` and its kin).
    pub recursive_set: u64,
    /// See `recursive_set`.
    pub recursive_clear: u64,
    /// `MS_SHARED` and so on, `MS_REC` included, in the order given.
    pub propagation: Vec<u64>,
    /// What is left is for the file system.
    pub data: Vec<String>,
    /// `bind` (false) or `rbind` (true).
    pub bind: Option<bool>,
    /// `idmap` (false) or `ridmap` (true).
    pub idmap: Option<bool>,
    /// What follows `idmap=` or `ridmap=`: the ranges of this mount.
    pub id_ranges: Option<String>,
    /// Copy what the directory held into the new tmpfs.
    pub tmpcopyup: bool,
    /// `remount`: what is mounted there already is changed.
    pub remount: bool,
}

/// What one word does.
enum Word {
    /// A flag: the `MS_*` bit, the attribute bit, and whether it is set or cleared.
    Flag(MsFlags, u64, bool),
    /// A way to update access times: they exclude each other.
    Atime(MsFlags, u64),
    /// A superblock flag, which no bind mount has of its own.
    Super(MsFlags, bool),
    Nothing,
}

const RO: MsFlags = MsFlags::MS_RDONLY;
const SUID: MsFlags = MsFlags::MS_NOSUID;
const DEV: MsFlags = MsFlags::MS_NODEV;
const EXEC: MsFlags = MsFlags::MS_NOEXEC;
const DIRATIME: MsFlags = MsFlags::MS_NODIRATIME;
/// `MS_NOSYMFOLLOW` of linux/mount.h, which nix lacks.
const SYMFOLLOW: MsFlags = MsFlags::from_bits_retain(256);

/// Every word that is a flag. A leading `r` makes the attributes recursive.
const WORDS: &[(&str, Word)] = &[
    ("defaults", Word::Nothing),
    ("ro", Word::Flag(RO, sys::MOUNT_ATTR_RDONLY, true)),
    ("rw", Word::Flag(RO, sys::MOUNT_ATTR_RDONLY, false)),
    ("nosuid", Word::Flag(SUID, sys::MOUNT_ATTR_NOSUID, true)),
    ("suid", Word::Flag(SUID, sys::MOUNT_ATTR_NOSUID, false)),
    ("nodev", Word::Flag(DEV, sys::MOUNT_ATTR_NODEV, true)),
    ("dev", Word::Flag(DEV, sys::MOUNT_ATTR_NODEV, false)),
    ("noexec", Word::Flag(EXEC, sys::MOUNT_ATTR_NOEXEC, true)),
    ("exec", Word::Flag(EXEC, sys::MOUNT_ATTR_NOEXEC, false)),
    (
        "nodiratime",
        Word::Flag(DIRATIME, sys::MOUNT_ATTR_NODIRATIME, true),
    ),
    (
        "diratime",
        Word::Flag(DIRATIME, sys::MOUNT_ATTR_NODIRATIME, false),
    ),
    (
        "nosymfollow",
        Word::Flag(SYMFOLLOW, sys::MOUNT_ATTR_NOSYMFOLLOW, true),
    ),
    (
        "symfollow",
        Word::Flag(SYMFOLLOW, sys::MOUNT_ATTR_NOSYMFOLLOW, false),
    ),
    ("relatime", Word::Atime(MsFlags::MS_RELATIME, 0)),
    (
        "norelatime",
        // It takes the word back (mount(8)), and the kernel is at its default again, relatime.
        Word::Atime(MsFlags::empty(), 0),
    ),
    (
        "noatime",
        Word::Atime(MsFlags::MS_NOATIME, sys::MOUNT_ATTR_NOATIME),
    ),
    ("atime", Word::Atime(MsFlags::empty(), 0)),
    (
        "strictatime",
        Word::Atime(MsFlags::MS_STRICTATIME, sys::MOUNT_ATTR_STRICTATIME),
    ),
    ("nostrictatime", Word::Atime(MsFlags::empty(), 0)),
    ("sync", Word::Super(MsFlags::MS_SYNCHRONOUS, true)),
    ("async", Word::Super(MsFlags::MS_SYNCHRONOUS, false)),
    ("dirsync", Word::Super(MsFlags::MS_DIRSYNC, true)),
    ("lazytime", Word::Super(MsFlags::MS_LAZYTIME, true)),
    ("nolazytime", Word::Super(MsFlags::MS_LAZYTIME, false)),
    ("iversion", Word::Super(MsFlags::MS_I_VERSION, true)),
    ("noiversion", Word::Super(MsFlags::MS_I_VERSION, false)),
    ("mand", Word::Super(MsFlags::from_bits_retain(64), true)),
    ("nomand", Word::Super(MsFlags::from_bits_retain(64), false)),
    ("acl", Word::Super(MsFlags::MS_POSIXACL, true)),
    ("noacl", Word::Super(MsFlags::MS_POSIXACL, false)),
    ("silent", Word::Super(MsFlags::MS_SILENT, true)),
    ("loud", Word::Super(MsFlags::MS_SILENT, false)),
];

/// Words of which `r<word>` means "and below".
const RECURSIVE: &[&str] = &[
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "nodiratime",
    "diratime",
    "nosymfollow",
    "symfollow",
    "relatime",
    "norelatime",
    "noatime",
    "atime",
    "strictatime",
    "nostrictatime",
];

const PROPAGATION: &[(&str, MsFlags)] = &[
    ("shared", MsFlags::MS_SHARED),
    ("slave", MsFlags::MS_SLAVE),
    ("private", MsFlags::MS_PRIVATE),
    ("unbindable", MsFlags::MS_UNBINDABLE),
];

/// Every word that is known, sorted: `mountOptions` of features.md.
pub fn known() -> Vec<String> {
    let mut words: Vec<String> = WORDS.iter().map(|(word, _)| (*word).to_owned()).collect();
    words.extend(RECURSIVE.iter().map(|word| format!("r{word}")));
    words.extend(
        PROPAGATION
            .iter()
            .flat_map(|(word, _)| [(*word).to_owned(), format!("r{word}")]),
    );
    words.extend(["bind", "rbind", "idmap", "ridmap", "tmpcopyup", "remount"].map(str::to_owned));
    words.sort();
    words
}

/// The `MS_*` of a word of propagation, with `MS_REC` for the `r` forms.
pub fn propagation(word: &str) -> Option<MsFlags> {
    let find = |word: &str| {
        PROPAGATION
            .iter()
            .find(|(known, _)| *known == word)
            .map(|(_, flag)| *flag)
    };
    find(word).or_else(|| Some(find(word.strip_prefix('r')?)? | MsFlags::MS_REC))
}

/// Reads the words in their order; a later one wins over an earlier.
pub fn parse(words: &[String]) -> Options {
    let mut options = Options::default();
    for word in words {
        match word.as_str() {
            "bind" => options.bind = Some(options.bind == Some(true)),
            "rbind" => options.bind = Some(true),
            "idmap" => options.idmap = Some(false),
            "ridmap" => options.idmap = Some(true),
            "tmpcopyup" => options.tmpcopyup = true,
            "remount" => options.remount = true,
            word => match word.split_once('=') {
                Some((name @ ("idmap" | "ridmap"), ranges)) => {
                    options.idmap = Some(name == "ridmap");
                    options.id_ranges = Some(ranges.to_owned());
                }
                _ => options.take(word),
            },
        }
    }
    options
}

impl Options {
    fn take(&mut self, word: &str) {
        if let Some(flag) = propagation(word) {
            self.propagation.push(flag.bits());
        } else if let Some((_, meaning)) = WORDS.iter().find(|(known, _)| *known == word) {
            self.apply(meaning);
        } else if let Some(bare) = word
            .strip_prefix('r')
            .filter(|bare| RECURSIVE.contains(bare))
        {
            self.apply_recursive(bare);
        } else {
            self.data.push(word.to_owned());
        }
    }

    fn apply(&mut self, meaning: &Word) {
        match meaning {
            Word::Nothing => {}
            Word::Flag(flag, attribute, true) => {
                self.flags |= flag.bits();
                self.set |= attribute;
                self.clear &= !attribute;
            }
            Word::Flag(flag, attribute, false) => {
                self.flags &= !flag.bits();
                self.set &= !attribute;
                self.clear |= attribute;
            }
            Word::Atime(flag, attribute) => {
                let all = MsFlags::MS_RELATIME | MsFlags::MS_NOATIME | MsFlags::MS_STRICTATIME;
                self.flags = self.flags & !all.bits() | flag.bits();
                self.set = self.set & !sys::MOUNT_ATTR_ATIME | attribute;
                // The kernel wants the whole field cleared before one of its values is set.
                self.clear |= sys::MOUNT_ATTR_ATIME;
            }
            Word::Super(flag, true) => self.flags |= flag.bits(),
            Word::Super(flag, false) => self.flags &= !flag.bits(),
        }
    }

    fn apply_recursive(&mut self, bare: &str) {
        let mut one = Options::default();
        one.take(bare);
        let whole = one.clear & sys::MOUNT_ATTR_ATIME;
        if whole != 0 {
            self.recursive_set &= !sys::MOUNT_ATTR_ATIME;
        }
        self.recursive_set = self.recursive_set & !one.clear | one.set;
        self.recursive_clear = self.recursive_clear & !one.set | one.clear | whole;
    }

    /// Takes `ro` and `rro` away, to be applied later: whether one of them was there.
    pub(super) fn take_read_only(&mut self) -> bool {
        let was_there = self.read_only();
        self.flags &= !RO.bits();
        self.set &= !sys::MOUNT_ATTR_RDONLY;
        self.recursive_set &= !sys::MOUNT_ATTR_RDONLY;
        was_there
    }

    /// Whether a `remount` by these says anything of `ro` and `rw`: that of a whole file system does, by
    /// leaving it out too.
    pub(super) fn tell_read_only(&self) -> bool {
        let told = self.set | self.clear | self.recursive_set | self.recursive_clear;
        self.bind.is_none() || told & sys::MOUNT_ATTR_RDONLY != 0
    }

    /// Whether the mount reads as read-only in the end.
    pub fn read_only(&self) -> bool {
        (self.set | self.recursive_set) & sys::MOUNT_ATTR_RDONLY != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Options {
        parse(
            &words
                .split(',')
                .filter(|w| !w.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = read("nosuid,mode=755,ro,size=64k");
        assert_eq!(options.flags, (RO | SUID).bits());
        assert_eq!(options.set, sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_RDONLY);
        assert_eq!(options.data, ["mode=755", "size=64k"]);
    }

    #[test]
    fn the_last_word_wins() {
        let options = read("ro,rw,noatime,relatime");
        assert_eq!(options.set, 0);
        assert_eq!(
            options.clear,
            sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_ATIME
        );
        assert_eq!(options.flags, MsFlags::MS_RELATIME.bits());
        assert_eq!(read("bind,rbind").bind, Some(true));
        assert_eq!(read("rbind,bind").bind, Some(true));
    }

    #[test]
    fn recursive_words_touch_the_recursive_set_only() {
        let options = read("rro,rnosuid,rnoatime");
        assert_eq!((options.flags, options.set, options.clear), (0, 0, 0));
        assert_eq!(
            options.recursive_set,
            sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NOATIME
        );
        assert_eq!(options.recursive_clear, sys::MOUNT_ATTR_ATIME);
        assert!(options.read_only());
        assert_eq!(read("relatime").recursive_set, 0);
        assert_eq!(read("noatime,norelatime").set, 0);
        let options = read("rnorelatime");
        assert_eq!(options.recursive_set, 0);
        assert_eq!(options.recursive_clear, sys::MOUNT_ATTR_ATIME);
    }

    #[test]
    fn propagation_is_kept_in_order() {
        let options = read("rslave,shared");
        let expected = [
            (MsFlags::MS_SLAVE | MsFlags::MS_REC).bits(),
            MsFlags::MS_SHARED.bits(),
        ];
        assert_eq!(options.propagation, expected);
    }

    #[test]
    fn known_words_parse_as_words() {
        for word in known() {
            assert!(read(&word).data.is_empty(), "{word}");
        }
    }
}
