//! Whose a cgroup is. Nothing keeps two containers from naming the same one: the second is let in if
//! it finds nobody there, and the first must not take its processes for its own then.

use super::Cgroup;
use crate::sys::xattr;
use std::ffi::OsStr;

/// Of the kind that takes CAP_SYS_ADMIN to change (xattr(7)): the container's user may write to its
/// cgroup.
const MARK: &str = "trusted.oci.container";

impl Cgroup {
    /// Marks it as this container's. Best effort: an ordinary user cannot.
    pub fn claim(&self, container: &str) {
        if let Some(dir) = self.roll() {
            let _ = xattr::set(&dir.full(), OsStr::new(MARK), container.as_bytes());
        }
    }

    /// Whether it is marked as this container's; `None`: as nobody's.
    pub fn is_claimed_by(&self, container: &str) -> Option<bool> {
        Some(self.mark()? == container.as_bytes())
    }

    /// Whether it is marked as that of a container with this id, whenever that was created.
    pub fn is_claimed_by_id(&self, id: &str) -> bool {
        self.mark()
            .is_some_and(|mark| mark.starts_with(format!("{id} ").as_bytes()))
    }

    fn mark(&self) -> Option<Vec<u8>> {
        xattr::get(&self.roll()?.full(), OsStr::new(MARK)).ok()?
    }
}
