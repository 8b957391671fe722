//! `update`: other limits and another restart policy for containers. The runtime changes those of
//! one that runs; config.json and the record then say the same, so that a later start has them too.
//! Where the kernel refuses, nothing is changed.

use super::bundle::PERIOD;
use super::cli::{Global, Update};
use super::machine;
use super::reach::Reach;
use super::record::{self, Process, Record};
use super::runtime_cli::Runtime;
use super::shown;
use super::state_dirs::State;
use super::values::Restart;
use super::whole_file::prepare;
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value, json};
use std::os::unix::fs::MetadataExt;

/// `mydocker update`
pub fn update(state: &State, _: &Global, args: &Update) -> Result<i32> {
    // `--memory-swap 0` changes nothing, and is no mistake.
    let asks = args.restart.is_some() || args.memory_swap.is_some();
    if resources(args).is_empty() && !asks {
        let error = anyhow!("update: nothing to change");
        let hint = "name a limit, as in -m 100m, or --restart POLICY";
        return Err(with_exit_code(with_hint(error, hint), 125));
    }
    machine::check(&machine::Wanted {
        cpus: args.cpus,
        ..Default::default()
    })?;
    let mut args = args.clone();
    if let Some(reach) = Reach::if_limited(args.best_effort)? {
        let lacking = reach.lacking(&Value::Object(resources(&args)), args.best_effort)?;
        lacking.iter().for_each(|name| args.leave_out(name));
    }
    let wanted = resources(&args);
    super::for_each(&args.containers, |name| {
        let record = record::find(state, name)?;
        one(state, &record, &args, &wanted).exit_code(1)?;
        super::say(name)
    })
}

fn one(state: &State, record: &Record, args: &Update, wanted: &Map<String, Value>) -> Result<()> {
    // Nobody starts it meanwhile with half of it, but its own monitor.
    let _one = state.lock_container(&record.id)?;
    let mut record = record::find(state, &record.id)?;
    if args.restart.is_some_and(|restart| restart != Restart::No) && record.remove {
        let error = anyhow!("--restart: {} is removed at its end (--rm)", record.name);
        return Err(with_hint(error, "the two do not go together"));
    }
    let path = state.config(&record.id);
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let mut config: Value = serde_json::from_slice(&text)
        .with_context(|| format!("{} is damaged", path.display()))
        .hint("the container cannot be started any more; remove it: mydocker rm -f")?;
    let now = &mut config["linux"]["resources"];
    let asked = completed(now, wanted)?;
    let mut told = None;
    if !wanted.is_empty() {
        merge(now, &asked);
        let mut text = serde_json::to_vec(&config).context("encode config.json")?;
        text.push(b'\n');
        // What may fail for want of room does so before the kernel is told; and not while somebody uses the
        // room that is kept for the record, which would then be ours.
        let room = state.lock_record(&record.id)?;
        let config = prepare(&path, &text, true).hint("nothing is changed")?;
        drop(room);
        told = tell(state, &record, &asked).hint(
            "nothing is changed; a limit of memory cannot be less than what is in use (mydocker \
             stats)",
        )?;
        config.publish()?;
    }
    record.update(state, true, |record| note(record, args, &asked))?;
    // It may have been started with the old ones, see [`Limits`].
    if !wanted.is_empty() && record.process != told {
        tell(state, &record, &asked).hint("it has them from its next start on")?;
    }
    super::events::of_container(state, &record, "update", &[]);
    Ok(())
}

/// Has the runtime change the limits of a container that runs: its process.
fn tell(state: &State, record: &Record, asked: &Map<String, Value>) -> Result<Option<Process>> {
    if !record.status(state).is_alive() {
        return Ok(None);
    }
    Runtime::new(state, &record.runtime)
        .update(&record.id, &Value::Object(asked.clone()))
        .with_context(|| format!("update {}", record.name))?;
    Ok(record.process.clone())
}

/// The config.json that a start is about to use. An `update` during the start writes another one, and
/// may look for the process too early: whoever has started it looks as well, after it has noted so.
pub(super) struct Limits(Option<(u64, i64, i64)>);

impl Limits {
    pub(super) fn of(state: &State, id: &str) -> Limits {
        let file = std::fs::metadata(state.config(id)).ok();
        Limits(file.map(|file| (file.ino(), file.ctime(), file.ctime_nsec())))
    }

    /// Gives a container that runs the limits that have been written since.
    pub(super) fn catch_up(&self, state: &State, record: &Record) {
        if Limits::of(state, &record.id).0 == self.0 {
            return;
        }
        let give = || -> Result<()> {
            let text = std::fs::read(state.config(&record.id)).context("read config.json")?;
            let config: Value = serde_json::from_slice(&text).context("read config.json")?;
            tell(state, record, &changeable(&config["linux"]["resources"])).map(drop)
        };
        if let Err(error) = give() {
            super::report(&error);
        }
    }
}

/// Of the limits of a config.json, those that [`resources`] can name.
fn changeable(all: &Value) -> Map<String, Value> {
    const KEYS: [(&str, &[&str]); 4] = [
        ("memory", &["limit", "swap", "reservation"]),
        ("cpu", &["shares", "cpus", "mems", "quota", "period"]),
        ("pids", &["limit"]),
        ("blockIO", &["weight"]),
    ];
    let mut found = Map::new();
    for (group, keys) in KEYS {
        let of = |key: &&str| Some(((*key).to_owned(), all[group].get(*key)?.clone()));
        let there: Map<String, Value> = keys.iter().filter_map(of).collect();
        if !there.is_empty() {
            found.insert(group.to_owned(), there.into());
        }
    }
    found
}

/// `linux.resources` of a config.json, with nothing but what is asked for.
fn resources(args: &Update) -> Map<String, Value> {
    let mut all = Map::new();
    let mut put = |group: &str, key: &str, value: Option<Value>| {
        if let Some(value) = value {
            let group = all.entry(group).or_insert_with(|| json!({}));
            group[key] = value;
        }
    };
    let bytes = |bytes: &Option<super::values::Bytes>| bytes.as_ref().map(|b| b.count.into());
    put("memory", "limit", bytes(&args.memory));
    // Zero says nothing of swap, as with `run`.
    let swap = args.memory_swap.as_ref().filter(|swap| swap.count != 0);
    put("memory", "swap", swap.map(|swap| swap.count.into()));
    put("memory", "reservation", bytes(&args.memory_reservation));
    // Zero is the kernel's own number, as with `run`.
    let shares = args
        .cpu_shares
        .map(|shares| if shares == 0 { 1024 } else { shares });
    put("cpu", "shares", shares.map(Value::from));
    put("cpu", "cpus", args.cpuset_cpus.clone().map(Value::from));
    put("cpu", "mems", args.cpuset_mems.clone().map(Value::from));
    let quota = args.cpus.map(|cpus| match cpus {
        0.0 => -1,
        cpus => (cpus * PERIOD as f64).round() as i64,
    });
    put("cpu", "quota", quota.or(args.cpu_quota).map(Value::from));
    let period = args.cpus.map(|_| PERIOD).or(args.cpu_period);
    put("cpu", "period", period.map(Value::from));
    let pids = args
        .pids_limit
        .map(|limit| if limit == 0 { -1 } else { limit });
    put("pids", "limit", pids.map(Value::from));
    put("blockIO", "weight", args.blkio_weight.map(Value::from));
    all
}

/// The same with what it implies: memory and swap together are no less than memory alone, and stay
/// twice as much where they were so (as `run` sets them).
fn completed(now: &Value, wanted: &Map<String, Value>) -> Result<Map<String, Value>> {
    let mut wanted = wanted.clone();
    let of = |from: &Value, key: &str| from["memory"][key].as_i64();
    let asked = Value::Object(wanted.clone());
    let swap = of(&asked, "swap");
    let limit = of(&asked, "limit").or(of(now, "limit"));
    if let Some(swap) = swap
        && swap != -1
        && limit.is_none_or(|limit| swap < limit)
    {
        let error = match limit {
            Some(limit) => anyhow!("--memory-swap {swap} is less than the memory limit {limit}"),
            None => anyhow!("--memory-swap needs -m: there is no memory limit yet"),
        };
        return Err(with_hint(error, "it is memory and swap together"));
    }
    if let (Some(limit), None, Some(old)) = (of(&asked, "limit"), swap, of(now, "swap")) {
        if of(now, "limit").is_some_and(|limit| old == limit.saturating_mul(2)) {
            let twice = if limit > 0 {
                limit.saturating_mul(2)
            } else {
                -1
            };
            wanted["memory"]["swap"] = twice.into();
        } else if old != -1 && old < limit {
            let error = anyhow!("-m {limit} is more than memory and swap together may be ({old})");
            return Err(with_hint(error, "give --memory-swap as well"));
        }
    }
    if let Some(Value::Object(memory)) = wanted.get_mut("memory") {
        // Zero is no limit, for the kernel as for Docker.
        for value in memory.values_mut().filter(|value| **value == 0) {
            *value = json!(-1);
        }
    }
    Ok(wanted)
}

/// Replaces what is named, and leaves the rest.
fn merge(now: &mut Value, wanted: &Map<String, Value>) {
    for (key, value) in wanted {
        match value {
            Value::Object(inner) => merge(&mut now[key], inner),
            other => now[key] = other.clone(),
        }
    }
}

/// The same in the record: for `inspect`, and for what `ps` says of a limit.
fn note(record: &mut Record, args: &Update, asked: &Map<String, Value>) {
    if let Some(limit) = &args.memory {
        record.memory = (limit.count > 0).then(|| (limit.count, limit.text.clone()));
    }
    let host = &mut record.shown.host_config;
    if let Some(restart) = args.restart {
        record.restart = restart;
        record.restarts = 0;
        host.insert("RestartPolicy".into(), shown::restart_policy(restart));
    }
    let bytes = |bytes: &Option<super::values::Bytes>| bytes.as_ref().map(|b| json!(b.count));
    let swap = asked.get("memory").and_then(|memory| memory.get("swap"));
    for (key, value) in [
        ("Memory", bytes(&args.memory)),
        ("MemorySwap", swap.cloned()),
        ("MemoryReservation", bytes(&args.memory_reservation)),
        ("CpuShares", args.cpu_shares.map(Value::from)),
        ("NanoCpus", args.cpus.map(|cpus| json!((cpus * 1e9) as i64))),
        ("CpuPeriod", args.cpu_period.map(Value::from)),
        ("CpuQuota", args.cpu_quota.map(Value::from)),
        ("CpusetCpus", args.cpuset_cpus.clone().map(Value::from)),
        ("CpusetMems", args.cpuset_mems.clone().map(Value::from)),
        ("PidsLimit", args.pids_limit.map(Value::from)),
        ("BlkioWeight", args.blkio_weight.map(Value::from)),
    ] {
        if let Some(value) = value {
            host.insert(key.into(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cli::{Cli, Verb};
    use super::super::flags::{Parsed, parse};
    use super::*;

    fn of(words: &str) -> Update {
        let words = format!("update {words} c");
        let parsed = parse(words.split_whitespace().map(Into::into).collect()).unwrap();
        let Parsed::Run(cli) = parsed else {
            panic!("help");
        };
        match *cli {
            Cli {
                verb: Verb::Update(args),
                ..
            } => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_resources() {
        let all = "-m 100m -cpushare 512 --cpus 1.5 -cpuset 0 --pids-limit 0 --blkio-weight 20";
        assert_eq!(
            Value::Object(resources(&of(all))),
            json!({
                "memory": {"limit": 104_857_600},
                "cpu": {"shares": 512, "quota": 150_000, "period": 100_000, "cpus": "0"},
                "pids": {"limit": -1}, "blockIO": {"weight": 20},
            })
        );
        assert!(resources(&of("--restart always")).is_empty());
        assert!(resources(&of("--memory-swap 0")).is_empty());
        let unlimited = json!({"cpu": {"quota": -1, "period": 100_000}});
        assert_eq!(Value::Object(resources(&of("--cpus 0"))), unlimited);
        let zero = Value::Object(resources(&of("--cpu-shares 0 --pids-limit 5")));
        assert_eq!(zero, json!({"cpu": {"shares": 1024}, "pids": {"limit": 5}}));
        let mut all = zero.clone();
        all["devices"] = json!([]);
        all["memory"] = json!({"disableOOMKiller": true});
        assert_eq!(Value::Object(changeable(&all)), zero);
    }

    #[test]
    fn what_is_not_named_stays() {
        let mut now = json!({"memory": {"limit": 1, "swap": 9}, "devices": []});
        merge(&mut now, &resources(&of("-m 5b --pids-limit 7")));
        assert_eq!(
            now,
            json!({"memory": {"limit": 5, "swap": 9}, "devices": [], "pids": {"limit": 7}})
        );
        assert_eq!(now["memory"]["limit"], 5);
        let asked = |words, now: &Value| completed(now, &resources(&of(words)));
        assert!(asked("-m 20b", &now).is_err(), "more than swap");
        assert!(asked("-m 20b --memory-swap 30b", &now).is_ok());
        assert!(asked("--memory-swap 2b", &now).is_err());
        assert!(asked("--memory-swap 2m", &json!({})).is_err());
        assert!(asked("--memory-swap -1", &json!({})).is_ok());
        let usual = json!({"memory": {"limit": 5, "swap": 10}});
        for (words, swap) in [
            ("-m 20b", 40),
            ("-m 2b", 4),
            ("-m 0", -1),
            ("-m 20b --memory-swap 30b", 30),
        ] {
            let asked = Value::Object(asked(words, &usual).unwrap());
            assert_eq!(asked["memory"]["swap"], swap, "{words}");
        }
    }
}
