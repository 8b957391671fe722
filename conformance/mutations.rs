//! Random changes of a valid config.json: each must end in an error or in a container, never in a
//! panic or a hang, and nothing may be left. The changes are the same in every run.

use crate::Test;
use crate::frontend::Place;
use anyhow::{Context, Result, bail, ensure};
use containers::sys::process::pidfd_open;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Changes of each class.
const EACH: u64 = 100;

/// The parts of a config.json that are changed together: JSON pointers.
const CLASSES: [(&str, &[&str]); 11] = [
    ("document", &[""]),
    (
        "root",
        &["/root", "/ociVersion", "/hostname", "/annotations"],
    ),
    ("process", &["/process"]),
    (
        "rights",
        &["/process/user", "/process/capabilities", "/process/rlimits"],
    ),
    ("mounts", &["/mounts"]),
    ("hooks", &["/hooks"]),
    ("namespaces", &["/linux/namespaces"]),
    (
        "user namespace",
        &[
            "/linux/namespaces",
            "/linux/uidMappings",
            "/linux/gidMappings",
        ],
    ),
    ("resources", &["/linux/resources", "/linux/cgroupsPath"]),
    ("seccomp", &["/linux/seccomp"]),
    (
        "linux",
        &[
            "/linux/devices",
            "/linux/sysctl",
            "/linux/maskedPaths",
            "/linux/readonlyPaths",
            "/linux/rootfsPropagation",
            "/linux/personality",
        ],
    ),
];

/// One test for each class.
pub(crate) fn tests(runtime: Option<&Path>) -> Vec<Test> {
    let runtime = crate::runtime_under_test(runtime);
    let classes = CLASSES.iter().zip(1..);
    let tests = classes.map(|((name, parts), seed)| {
        let runtime = runtime.clone();
        Test {
            name: format!("mutations of {name}"),
            run: Box::new(move |place| {
                let trial = Trial::new(&runtime, place)?;
                let mut base = base(&trial.dir);
                if *name == "user namespace" {
                    in_user_namespace(&mut base);
                }
                let done = trial.run(&base)?;
                ensure!(done.code == Some(0), "the unchanged config: {done:?}");
                for turn in 0..EACH {
                    let mut dice = Dice(seed << 32 | turn);
                    let mut config = base.clone();
                    for _ in 0..=dice.below(2) {
                        let part = parts[dice.below(parts.len())];
                        mutate(&mut config, part, &mut dice);
                    }
                    trial.judge(&config).with_context(|| {
                        format!("change {turn}: {}", difference(&base, &config))
                    })?;
                }
                Ok(())
            }),
        }
    });
    tests.collect()
}

/// A config in which every part is there, and holds.
fn base(dir: &Path) -> Value {
    let hook = json!([{"path": "/bin/true", "args": ["true"], "env": ["A=1"], "timeout": 9}]);
    let all = json!(["CAP_KILL", "CAP_CHOWN"]);
    json!({
        "ociVersion": "1.3.0",
        "hostname": "box",
        "annotations": {"org.example.key": "value"},
        "root": {"path": "../rootfs", "readonly": true},
        "process": {
            "args": ["sh", "-c", "echo started"],
            "cwd": "/",
            "env": ["PATH=/bin", "A=b"],
            "terminal": false,
            "consoleSize": {"height": 24, "width": 80},
            "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [5]},
            "capabilities": {"bounding": all, "effective": all, "permitted": all},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024}],
            "noNewPrivileges": true,
            "oomScoreAdj": 100,
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
            "scheduler": {"policy": "SCHED_OTHER", "nice": 1},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/mnt", "source": dir.join("shared"), "options": ["rbind", "ro", "rslave"]},
            {"destination": "/tmp", "type": "tmpfs", "options": ["tmpcopyup", "noatime"]},
        ],
        "hooks": {"prestart": hook, "createRuntime": hook, "createContainer": hook,
                  "poststart": hook, "poststop": hook},
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                           {"type": "network"}],
            "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229,
                         "fileMode": 438, "uid": 0, "gid": 0}],
            "resources": {
                "devices": [{"allow": false, "access": "rwm"},
                            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}],
                "memory": {"limit": 67_108_864, "reservation": 33_554_432},
                "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
                "pids": {"limit": 64},
            },
            "sysctl": {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "0"},
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
                "syscalls": [
                    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
                    {"names": ["personality"], "action": "SCMP_ACT_ERRNO",
                     "args": [{"index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]},
                ],
            },
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/bus"],
            "rootfsPropagation": "rslave",
            "personality": {"domain": "LINUX"},
        },
    })
}

/// What another user namespace may not do goes.
fn in_user_namespace(config: &mut Value) {
    crate::verbs::add_user_namespace(config);
    config["linux"]["devices"] = json!([]);
    config["process"]["oomScoreAdj"] = Value::Null;
}

/// splitmix64 (Steele, Lea, Flood 2014): the same numbers from the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
}

/// Changes one value at or below `part`.
fn mutate(config: &mut Value, part: &str, dice: &mut Dice) {
    let mut places = Vec::new();
    if let Some(value) = config.pointer(part) {
        collect(value, part.to_owned(), &mut places);
    }
    if places.is_empty() {
        return;
    }
    let place = dice.of(&places);
    if dice.below(5) == 0
        && let Some((parent, key)) = place.rsplit_once('/')
    {
        match config.pointer_mut(parent) {
            Some(Value::Object(map)) => drop(map.remove(&key.replace("~1", "/"))),
            Some(Value::Array(list)) => drop(key.parse().map(|index: usize| list.remove(index))),
            _ => {}
        }
        return;
    }
    if let Some(value) = config.pointer_mut(&place) {
        *value = match dice.below(3) {
            0 => odd(dice),
            _ => similar(value, dice),
        };
    }
}

fn collect(value: &Value, place: String, places: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                collect(value, format!("{place}/{}", key.replace('/', "~1")), places);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                collect(value, format!("{place}/{index}"), places);
            }
        }
        _ => {}
    }
    places.push(place);
}

/// A value of any type.
fn odd(dice: &mut Dice) -> Value {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(""),
        json!("x"),
        json!([]),
        json!([[]]),
        json!({}),
        json!({"": {"": []}}),
    ];
    dice.of(&values)
}

const WORDS: [&str; 22] = [
    "",
    "/",
    ".",
    "..",
    "../../../../../outside/made",
    "/../../outside/made",
    "/no/such/place",
    "/proc/self/fd/3",
    "/proc/self/ns/uts",
    "/dev/null",
    "a\0b",
    "a\nb",
    "\u{202e}ä\u{fffd}",
    "-1",
    "18446744073709551616",
    "0x10",
    "%s%n",
    "bind",
    "tmpfs",
    "cgroup",
    "SCMP_ACT_KILL_PROCESS",
    "CAP_SYS_ADMIN",
];

/// A value of the same type.
fn similar(value: &Value, dice: &mut Dice) -> Value {
    match value {
        Value::Null => json!(0),
        Value::Bool(yes) => json!(!yes),
        Value::Number(number) => {
            let near = number.as_i64().unwrap_or(0);
            let numbers = [
                near.wrapping_add(1),
                near.wrapping_neg(),
                near.wrapping_mul(1000),
                0,
                i64::from(i32::MAX) + 1,
                i64::from(u32::MAX) + 1,
                i64::MAX,
            ];
            json!(dice.of(&numbers))
        }
        Value::String(text) => json!(text_like(text, dice)),
        Value::Array(list) => {
            let mut list = list.clone();
            match dice.below(4) {
                0 => list.reverse(),
                1 => list.clear(),
                2 => list.push(odd(dice)),
                _ if list.is_empty() => list.push(json!("")),
                _ => list.push(dice.of(&list)),
            }
            Value::Array(list)
        }
        Value::Object(map) => Value::Object(object_like(map, dice)),
    }
}

fn text_like(text: &str, dice: &mut Dice) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    let at = dice.below(letters.len());
    match dice.below(5) {
        0 if !letters.is_empty() => drop(letters.remove(at)),
        1 => letters.insert(at, dice.of(&['/', '=', ' ', ':', 'z', '0'])),
        2 => return text.repeat(1 + dice.below(400)),
        _ => return dice.of(&WORDS).to_owned(),
    }
    letters.into_iter().collect()
}

/// An unknown field, a key with another's value, or a key that is no more.
fn object_like(map: &Map<String, Value>, dice: &mut Dice) -> Map<String, Value> {
    let mut map = map.clone();
    let keys: Vec<String> = map.keys().cloned().collect();
    if keys.is_empty() || dice.below(3) == 0 {
        map.insert(dice.of(&WORDS).to_owned(), odd(dice));
        return map;
    }
    let (one, other) = (dice.of(&keys), dice.of(&keys));
    if let Some(value) = map.remove(&one) {
        map.insert(other, value);
    }
    map
}

/// The parts that are not the same, for the message.
fn difference(base: &Value, config: &Value) -> String {
    let mut places = Vec::new();
    collect(config, String::new(), &mut places);
    places.retain(|place| base.pointer(place) != config.pointer(place));
    // A part contains its parts; the longest names tell most.
    places.retain(|place| {
        let value = config.pointer(place);
        !value.is_some_and(|v| v.is_object() || v.is_array()) || place.matches('/').count() > 1
    });
    let told = places.iter().filter_map(|place| {
        let value = config.pointer(place)?;
        Some(format!("{place} = {value}"))
    });
    let text = told.collect::<Vec<_>>().join("; ");
    text.chars().take(800).collect()
}

/// A runtime with a bundle that is changed again and again.
struct Trial {
    runtime: PathBuf,
    dir: PathBuf,
    id: String,
}

#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Trial {
    fn new(runtime: &Path, place: &Place) -> Result<Trial> {
        let dir = place.dir.clone();
        for name in ["bundle", "shared", "outside"] {
            std::fs::create_dir(dir.join(name))?;
        }
        // Mount points are made in it, and a changed config may make it writable.
        let rootfs = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/rootfs");
        let copied = Command::new("cp").arg("-a").arg(rootfs).arg(&dir).status();
        ensure!(copied?.success(), "copy the root filesystem");
        let number = dir.file_name().unwrap_or_default().to_string_lossy();
        let id = format!("conf-{}-{number}", std::process::id());
        Ok(Trial {
            runtime: runtime.to_owned(),
            id,
            dir,
        })
    }

    fn run(&self, config: &Value) -> Result<Done> {
        let bundle = self.dir.join("bundle");
        std::fs::write(bundle.join("config.json"), config.to_string())?;
        let (out, err) = (self.dir.join("out"), self.dir.join("err"));
        let mut child = Command::new(&self.runtime)
            .arg("--root")
            .arg(self.dir.join("state"))
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg(&self.id)
            .env("CONFORMANCE", &self.dir)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn()
            .context("run the runtime")?;
        let pidfd = pidfd_open(child.id() as i32)?;
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        // Long enough for a loaded machine; nothing that is run here takes time.
        let ended = poll(&mut fds, PollTimeout::from(30_000u16))? == 1;
        if !ended {
            let _ = child.kill();
        }
        let status = child.wait()?;
        let text = |path| -> Result<String> {
            Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
        };
        let done = Done {
            code: status.code(),
            out: text(out)?,
            err: text(err)?,
        };
        ensure!(ended, "it hangs: {done:?}");
        Ok(done)
    }

    fn judge(&self, config: &Value) -> Result<()> {
        let done = self.run(config)?;
        let refused = done
            .err
            .lines()
            .any(|line| line.starts_with("runtime: error: "));
        // What became of the program is its own affair: the kernel may have killed it, and the shell
        // may not know what to do with its arguments.
        let ran = done.out.contains("started")
            || done.err.contains("sh: ")
            || matches!(done.code, Some(0 | 128..));
        if done.code.is_none() || done.err.contains("panicked") || !(refused || ran) {
            bail!("it ended so: {done:?}");
        }
        self.look_for_remains().with_context(|| format!("{done:?}"))
    }

    fn look_for_remains(&self) -> Result<()> {
        let state = std::fs::read_dir(self.dir.join("state"))
            .into_iter()
            .flatten();
        let left: Vec<_> = state
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| !name.to_string_lossy().starts_with('.'))
            .collect();
        ensure!(left.is_empty(), "its state is left: {left:?}");
        for base in crate::bundles::hierarchies()? {
            let dir = base.join(&self.id);
            ensure!(!dir.exists(), "{} is left", dir.display());
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let mine = self.dir.display().to_string();
        let left = mounts.lines().find(|line| line.contains(&mine));
        ensure!(left.is_none(), "a mount is left: {left:?}");
        let outside = std::fs::read_dir(self.dir.join("outside"))?.count();
        ensure!(outside == 0, "something was made outside of the container");
        Ok(())
    }
}
