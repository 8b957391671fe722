//! Looking after containers: `rename`, `stats`, `update`.

use super::Row;
use super::kit::{Desk, Place, wait_for};
use super::world::{World, cgroup_file};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "rename gives a container another name, alive or not",
        run: rename,
    },
    Row {
        name: "stats shows what containers use",
        run: stats,
    },
    Row {
        name: "update changes limits, now and for later starts",
        run: update,
    },
    Row {
        name: "run --cpus 0 and --memory-swap 0, and update with them, ask for no limit",
        run: no_limits,
    },
    Row {
        name: "inspect tells where the log will be of what was started",
        run: log_path,
    },
    Row {
        name: "update changes nothing when the kernel refuses",
        run: update_refused,
    },
    Row {
        name: "update --restart",
        run: update_restart,
    },
    Row {
        name: "ps -s and inspect -s, logs --details, labels and events by templates",
        run: shown,
    },
];

fn shown(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let options = ["--log-opt", "labels=a,none", "--log-opt", "env=b"];
    let labels = ["--label", "a=x y", "--label", "c.d=z", "-e", "b=1"];
    let script = "mkdir /made; echo 12345 > /made/file; echo said";
    let run = ["run", "--keep", "--name", "one"];
    let command = ["busybox", "sh", "-c", script];
    desk.go(&[&run, &options[..], &labels, &command].concat())?
        .ok()?;
    desk.go(&["logs", "--details", "one"])?
        .ok()?
        .says("a=x+y,b=1 said")?;
    let image: u64 = desk.inspect("busybox", "{{.Size}}")?.parse()?;
    let sizes = ["inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", "one"];
    desk.go(&sizes)?.ok()?.says(&format!("6 {}", image + 6))?;
    let done = desk.go(&["ps", "-s"])?.ok()?;
    let lines: Vec<&str> = done.out.lines().collect();
    ensure!(lines.len() == 2 && lines[0].ends_with("SIZE"), "{done:?}");
    ensure!(lines[1].contains("6B (virtual "), "{done:?}");
    let ps = |format: &str| desk.go(&["ps", "--format", format])?.ok();
    ps("{{.Label \"c.d\"}}{{.Label \"none\"}} {{.Names}}")?.says("z one")?;
    let done = ps("{{.Size}}")?;
    ensure!(done.out.starts_with("6B (virtual "), "{done:?}");
    desk.go(&["inspect", "-f", "{{.Config.Labels.none}}", "one"])?
        .ok()?
        .says("<no value>")?;
    let fields = "{{.Config.User}}|{{.Config.Entrypoint}}|{{.Config.ExposedPorts}}|{{.Author}}";
    desk.go(&["image", "inspect", "-f", fields, "busybox"])?
        .ok()?
        .says("|[]|map[]|")?;
    for (kind, name) in [("image", "one"), ("container", "busybox")] {
        let done = desk.go(&[kind, "inspect", name])?.code(1)?;
        let expected = format!("no such {kind}: {name}");
        ensure!(done.err.contains(&expected), "{done:?}");
    }
    desk.go(&["volume", "create", "--label", "l=v", "data"])?
        .ok()?;
    desk.go(&["volume", "ls", "--format", "{{.Name}} {{.Label \"l\"}}"])?
        .ok()?
        .says("data v")?;
    let unknown = "{{.Containers}} {{.SharedSize}} {{.UniqueSize}}";
    desk.go(&["images", "--format", unknown, "busybox"])?
        .ok()?
        .says("N/A N/A N/A")?;
    let done = desk.go(&["system", "df", "-v"])?.ok()?;
    let has = |words: &[&str]| {
        let mut lines = done.out.lines();
        lines.any(|line| words.iter().all(|word| line.contains(word)))
    };
    ensure!(has(&["busybox:latest", "  0B  ", "  1"]), "{done:?}");
    ensure!(has(&["one", "6B (virtual ", "exited (0)"]), "{done:?}");
    ensure!(has(&["data", "  0  "]), "{done:?}");
    desk.go(&["inspect", "-f", "{{.Config.None}}", "one"])?
        .fails(1, &["no field None"])?;
    let events = |format: &str| {
        let all = [
            "events", "--since", "1h", "--until", "0s", "--format", format,
        ];
        desk.go(&[&all[..], &["-f", "event=die"]].concat())?.ok()
    };
    let id = desk.inspect("one", "{{.Id}}")?;
    let format =
        "{{.Type}} {{.Status}} {{.ID}} {{.From}} {{.Scope}} {{.Actor.Attributes.exitCode}}";
    events(format)?.says(&format!("container die {id} busybox local 0"))?;
    let done = events("{{.Time}} {{json .}}")?;
    let seconds = done.out.split(' ').next().unwrap_or_default();
    ensure!(seconds.parse::<u64>().is_ok(), "{done:?}");
    // One whose program is not there.
    desk.go(&["create", "--name", "none", "busybox", "/nosuch"])?
        .ok()?;
    desk.go(&["start", "none"])?.fails(1, &["/nosuch"])?;
    ensure!(desk.inspect("none", "{{.State.ExitCode}}")? == "127");
    Ok(())
}

fn log_path(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let path = |name: &str| desk.inspect(name, "{{.LogPath}}");
    desk.go(&["create", "-it", "--name", "it", "busybox", "cat"])?
        .ok()?;
    ensure!(path("it")?.is_empty(), "it was never started");
    desk.start(&["--name", "none", "--log-driver", "none", "busybox", "top"])?;
    ensure!(path("none")?.is_empty(), "it has no log");
    let go = desk.path("go");
    std::fs::create_dir(&go)?;
    let volume = format!("{}:/go", go.display());
    let script = "until [ -e /go/now ]; do sleep 0.1; done; echo said";
    let run = [
        "--name", "one", "-v", &volume, "busybox", "sh", "-c", script,
    ];
    desk.start(&run)?;
    let early = path("one")?;
    ensure!(!early.is_empty() && !Path::new(&early).exists(), "{early}");
    desk.write("go/now", "")?;
    desk.wait("one")?;
    let text = std::fs::read_to_string(&early).with_context(|| early.clone())?;
    ensure!(text.ends_with(" said\n") && path("one")? == early, "{text}");
    Ok(())
}

fn no_limits(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let limits = ["--cpus", "0", "-m", "50m", "--memory-swap", "0"];
    desk.start(&[&["--name", "c"], &limits[..], &["busybox", "top"]].concat())?;
    let pid = desk.pid("c")?;
    let quota = || cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max");
    let is_free = |quota: &str| quota == "-1" || quota.starts_with("max");
    ensure!(quota()?.is_none_or(|quota| is_free(&quota)));
    // As if nothing was said of swap.
    let shown = "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}";
    let twice = desk.inspect("c", shown)?;
    desk.start(&["--name", "d", "-m", "50m", "busybox", "top"])?;
    ensure!(desk.inspect("d", shown)? == twice, "{twice}");
    desk.go(&["update", "--cpus", "0.5", "c"])?.ok()?;
    ensure!(quota()?.is_none_or(|quota| quota.starts_with("50000")));
    desk.go(&["update", "--cpus", "0", "c"])?.ok()?;
    desk.go(&["update", "--memory-swap", "0", "c"])?.ok()?;
    ensure!(quota()?.is_none_or(|quota| is_free(&quota)));
    ensure!(desk.inspect("c", shown)? == twice, "{twice}");
    Ok(())
}

fn rename(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let id = desk.start(&["--name", "old", "busybox", "top"])?;
    desk.go(&["create", "--name", "other", "busybox", "true"])?
        .ok()?;
    // With the lock file that the first start or rename makes.
    desk.go(&["start", "old"])?.ok()?;
    let before = World::of(&desk)?;
    for (args, words) in [
        (["rename", "old", "other"], "already used"),
        (["rename", "old", "old"], "its name already"),
        (["rename", "old", "a/b"], "invalid name"),
        (["rename", "nosuch", "x"], "no such container"),
    ] {
        desk.go(&args)?.fails(1, &[words])?;
    }
    before.is_back(&desk)?;
    let done = desk.go(&["rename", "old", "new"])?.ok()?;
    ensure!(done.out.is_empty(), "{done:?}");
    ensure!(desk.row("old")?.is_none() && desk.row("new")?.is_some());
    ensure!(desk.inspect("new", "{{.Name}} {{.Id}}")? == format!("/new {id}"));
    desk.go(&["logs", "old"])?
        .fails(1, &["no such container"])?;
    // The old name is free, and an id does as well as a name.
    desk.go(&["rename", "other", "old"])?.ok()?;
    desk.go(&["rename", &id[..12], "newest"])?.ok()?;
    desk.go(&["stop", "-t", "0", "newest"])?.ok()?;
    desk.go(&["rename", "newest", "again"])?.ok()?;
    desk.go(&["rm", "again", "old"])?.ok()?;
    let names = desk.root().join("names");
    let left = std::fs::read_dir(&names)?.count();
    ensure!(left == 0, "names are left in {}", names.display());
    Ok(())
}

fn stats(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let spin = "while :; do :; done";
    desk.start(&["--name", "busy", "-m", "20m", "busybox", "sh", "-c", spin])?;
    desk.start(&["--name", "idle", "busybox", "top"])?;
    desk.go(&["create", "--name", "never", "busybox", "true"])?
        .ok()?;
    let done = desk.go(&["stats", "--no-stream"])?.ok()?;
    let lines: Vec<&str> = done.out.lines().collect();
    let header: Vec<&str> = lines[0].split("   ").map(str::trim).collect();
    let header: Vec<&str> = header.into_iter().filter(|word| !word.is_empty()).collect();
    ensure!(
        header.join("|")
            == "CONTAINER ID|NAME|CPU %|MEM USAGE / LIMIT|MEM %|NET I/O|BLOCK I/O|PIDS",
        "{header:?}"
    );
    ensure!(lines.len() == 3, "{done:?}");
    ensure!(
        !done.out.contains("never") && done.out.contains("/ 20MiB"),
        "{done:?}"
    );
    let done = desk
        .go(&["stats", "-a", "--no-stream", "--format", "json"])?
        .ok()?;
    let rows: Vec<serde_json::Value> = done
        .out
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(rows.len() == 3, "{done:?}");
    for row in &rows {
        let cpu = row["CPUPerc"].as_str().context("no CPUPerc")?;
        let number = cpu.trim_end_matches('%').parse::<f64>();
        match row["Name"].as_str() {
            // It has what the others on this machine leave it.
            Some("busy") => ensure!(number? > 0.5 && row["PIDs"] == "1", "{row}"),
            Some("idle") => ensure!(number? < 50.0 && row["MemUsage"] != "0B / 0B", "{row}"),
            _ => ensure!(cpu == "--" && row["PIDs"] == "--", "{row}"),
        }
    }
    let template = [
        "stats",
        "--no-stream",
        "--format",
        "{{.Name}}:{{.PIDs}}",
        "idle",
    ];
    desk.go(&template)?.ok()?.says("idle:1")?;
    desk.go(&["stats", "--no-stream", "nosuch"])?
        .fails(1, &["no such container"])?;
    Ok(())
}

/// What the container sees of its own limits.
fn limits(desk: &Desk, name: &str) -> Result<String> {
    let pid = desk.pid(name)?;
    let read = |controller: &str, v1: &str, v2: &str| {
        let found = cgroup_file(pid, controller, v1, v2)?;
        found.with_context(|| format!("no {controller} for {name}"))
    };
    Ok(format!(
        "memory {} pids {} cpus {}",
        read("memory", "memory.limit_in_bytes", "memory.max")?,
        read("pids", "pids.max", "pids.max")?,
        read("cpuset", "cpuset.cpus", "cpuset.cpus")?
    ))
}

fn update(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let options = ["-m", "64m", "--pids-limit", "50", "-cpuset", "0"];
    desk.start(&[&["--name", "u"], &options[..], &["busybox", "top"]].concat())?;
    ensure!(limits(&desk, "u")? == "memory 67108864 pids 50 cpus 0");
    let change = ["update", "-m", "100m", "--pids-limit=70", "u"];
    desk.go(&change)?.ok()?.says("u")?;
    let wanted = "memory 104857600 pids 70 cpus 0";
    ensure!(limits(&desk, "u")? == wanted, "{}", limits(&desk, "u")?);
    let template = "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.CpusetCpus}}";
    ensure!(desk.inspect("u", template)? == "104857600 70 0");
    desk.go(&["restart", "-t", "0", "u"])?.ok()?;
    ensure!(limits(&desk, "u")? == wanted, "{}", limits(&desk, "u")?);
    // One that does not run gets them at its next start.
    desk.go(&["stop", "-t", "0", "u"])?.ok()?;
    desk.go(&["update", "-m", "80m", "u"])?.ok()?;
    desk.go(&["start", "u"])?.ok()?;
    let wanted = "memory 83886080 pids 70 cpus 0";
    ensure!(limits(&desk, "u")? == wanted, "{}", limits(&desk, "u")?);
    desk.go(&["update", "u"])?
        .fails(125, &["nothing to change"])?;
    desk.go(&["update", "-m", "lots", "u"])?
        .fails(125, &["lots"])?;
    desk.go(&["update", "-m", "9m", "nosuch"])?
        .fails(1, &["no such container"])?;
    Ok(())
}

fn update_refused(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // Without a limit of memory or of CPUs: there is none to set again.
    desk.start(&["--name", "u", "--pids-limit", "50", "busybox", "top"])?;
    let before = limits(&desk, "u")?;
    let id = desk.inspect("u", "{{.Id}}")?;
    let config = desk.root().join("containers").join(&id).join("config.json");
    let read = || -> Result<[String; 2]> {
        let text = |path: &Path| std::fs::read_to_string(path);
        Ok([text(&config)?, text(&desk.record(&id)?)?])
    };
    let kept = read()?;
    // There is no such CPU; the number of processes comes first or last, and is taken back.
    let asked = ["--pids-limit", "60", "-m", "64m", "-cpuset", "4000"];
    desk.go(&[&["update"][..], &asked, &["u"]].concat())?
        .fails(1, &["cpuset", "nothing is changed"])?;
    ensure!(limits(&desk, "u")? == before, "{}", limits(&desk, "u")?);
    ensure!(read()? == kept, "the files have changed");
    desk.go(&["update", "--memory-swap", "9m", "u"])?
        .fails(1, &["--memory-swap needs -m"])?;
    ensure!(read()? == kept, "the files have changed");
    Ok(())
}

fn update_restart(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // From outside: a program that made the file in the container could be killed with it.
    desk.write("c/none", "")?;
    let volume = format!("{}:/c", desk.text("c"));
    let script = "echo life; while [ ! -e /c/end ]; do sleep 0.05; done; rm /c/end; exit 3";
    let args = ["--name", "r", "-v", &volume, "busybox", "sh", "-c", script];
    desk.start(&args)?;
    desk.logged("r", "life")?;
    desk.go(&["update", "--restart", "on-failure:5", "r"])?
        .ok()?;
    let policy = desk.inspect("r", "{{json .HostConfig.RestartPolicy}}")?;
    ensure!(
        policy.contains("on-failure") && policy.contains('5'),
        "{policy}"
    );
    // Its monitor goes by the new policy.
    desk.write("c/end", "")?;
    wait_for("the second life", || {
        let log = desk.go(&["logs", "r"])?.ok()?;
        Ok((log.out.matches("life").count() == 2).then_some(()))
    })?;
    desk.go(&["update", "--restart", "no", "r"])?.ok()?;
    let alive = || {
        desk.row("r")
            .map(|row| row.filter(|row| row.contains("running")))
    };
    wait_for("it runs", alive)?;
    desk.write("c/end", "")?;
    ensure!(desk.wait("r")? == 3);
    ensure!(desk.row("r")?.is_some_and(|row| row.contains("exited (3)")));
    Ok(())
}
