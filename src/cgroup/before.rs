//! What the files of a cgroup say before an update, so that one that is refused half-way changes
//! nothing.

use super::Cgroup;
use super::limit::Write;
use crate::sys::fds::read_to_string;

impl Cgroup {
    /// The writes that put back what `writes` would change, for the files that are there.
    pub(super) fn before(&self, writes: &[Write]) -> Vec<Write> {
        writes
            .iter()
            .filter_map(|write| self.before_one(write))
            .collect()
    }

    fn before_one(&self, write: &Write) -> Option<Write> {
        let dir = self.dir_of(write)?.full();
        let alternative = write.or.as_ref();
        let mut candidates = [(&write.file, &write.value)]
            .into_iter()
            .chain(alternative.map(|(file, value)| (file, value)));
        candidates.find_map(|(file, value)| {
            let text = read_to_string(dir.join(file)).ok()?;
            Some(Write::new(
                &write.controller,
                file,
                present(file, value, &text),
            ))
        })
    }
}

/// What is to be written to `file`, which says `text`, to have again what a write of `value` changes.
/// A file with a line for each device or interface takes one line at a time, and shows only those that
/// are limited (cgroup-v2.rst, "Nested keyed"; cgroup-v1/blkio-controller.rst).
fn present(file: &str, value: &str, text: &str) -> String {
    let line_of = |key: &str| {
        let mut lines = text.lines();
        lines.find(|line| line.split_whitespace().next() == Some(key))
    };
    let key = value.split_whitespace().next().unwrap_or_default();
    let of_device = key.contains(':');
    match file {
        "memory.oom_control" => {
            let line = line_of("oom_kill_disable").unwrap_or_default();
            line.split_whitespace().nth(1).unwrap_or("0").to_owned()
        }
        "io.max" if of_device => line_of(key).map_or_else(
            || format!("{key} rbps=max wbps=max riops=max wiops=max"),
            str::to_owned,
        ),
        "io.latency" if of_device => {
            line_of(key).map_or_else(|| format!("{key} target=0"), str::to_owned)
        }
        "io.weight" | "io.bfq.weight" | "blkio.bfq.weight_device" if of_device => {
            line_of(key).map_or_else(|| format!("{key} default"), str::to_owned)
        }
        _ if of_device => line_of(key).map_or_else(|| format!("{key} 0"), str::to_owned),
        "net_prio.ifpriomap" | "rdma.max" | "misc.max" => line_of(key).unwrap_or(value).to_owned(),
        // Behind the word it may say why it is not in force.
        "cpuset.cpus.partition" => text
            .split_whitespace()
            .next()
            .unwrap_or("member")
            .to_owned(),
        // An empty list of CPUs is one too, but write(2) of nothing does not reach the kernel.
        _ => match text.lines().next() {
            None | Some("") => "\n".to_owned(),
            Some(line) => line.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_is_put_back_by_the_line_that_it_takes() {
        let throttle = "blkio.throttle.read_bps_device";
        for (file, value, text, wanted) in [
            ("memory.max", "1024", "max\n", "max"),
            ("cpu.max", "max 5000", "10000 100000\n", "10000 100000"),
            ("cpuset.cpus", "0", "\n", "\n"),
            ("cpuset.cpus", "0", "", "\n"),
            (
                "memory.oom_control",
                "1",
                "oom_kill_disable 0\nunder_oom 0\n",
                "0",
            ),
            (throttle, "8:0 5", "", "8:0 0"),
            (throttle, "8:0 5", "7:0 3\n8:0 9\n", "8:0 9"),
            (
                "io.max",
                "8:0 rbps=5",
                "",
                "8:0 rbps=max wbps=max riops=max wiops=max",
            ),
            (
                "io.max",
                "8:0 rbps=5",
                "8:0 rbps=9 wbps=max\n",
                "8:0 rbps=9 wbps=max",
            ),
            (
                "io.weight",
                "default 5",
                "default 100\n8:0 7\n",
                "default 100",
            ),
            ("io.weight", "8:0 5", "default 100\n", "8:0 default"),
            ("io.latency", "8:0 target=5", "", "8:0 target=0"),
            ("blkio.bfq.weight_device", "8:0 5", "", "8:0 default"),
            ("misc.max", "b 5", "a 1\nb max\n", "b max"),
            (
                "cpuset.cpus.partition",
                "root",
                "root invalid (why)\n",
                "root",
            ),
            ("net_prio.ifpriomap", "lo 5", "lo 0\neth0 1\n", "lo 0"),
        ] {
            assert_eq!(
                present(file, value, text),
                wanted,
                "{file} {value} {text:?}"
            );
        }
    }
}
