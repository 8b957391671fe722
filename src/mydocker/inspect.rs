//! `inspect`: everything about containers, images and volumes, in Docker's words.

use super::cli::{Global, Inspect, InspectType};
use super::image::{Image, Store};
use super::record::{self, Record, Status};
use super::runtime_cli::code_of;
use super::state_dirs::State;
use super::{format, log, volume};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Result, anyhow};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `mydocker inspect`
pub fn inspect(state: &State, _: &Global, args: &Inspect) -> Result<i32> {
    let mut found = Vec::new();
    let result = super::for_each(&args.names, |name| {
        found.push(find(state, args, name)?);
        Ok(())
    });
    format::objects(args.format.as_deref(), &found)?;
    result
}

fn find(state: &State, args: &Inspect, name: &str) -> Result<Value> {
    let kind = args.r#type;
    if matches!(kind, None | Some(InspectType::Container)) {
        match record::find_id(state, name) {
            Ok(_) => {
                let record = record::find(state, name)?;
                let mut object = container(state, &record)?;
                if args.size {
                    let store = Store::open(&state.root)?;
                    let (own, whole) = super::df::written(state, &store, &record);
                    object["SizeRw"] = own.into();
                    object["SizeRootFs"] = whole.into();
                }
                return Ok(object);
            }
            Err(error) if kind == Some(InspectType::Container) => return Err(error),
            Err(_) => {}
        }
    }
    if kind == Some(InspectType::Volume) {
        return Ok(volume::described(state, &volume::get(state, name)?));
    }
    let image = match state.root.join("images").exists() {
        true => Store::open(&state.root)?.find(name).exit_code(1)?,
        false => None,
    };
    if let Some(image) = image {
        return Ok(of_image(&image));
    }
    if kind.is_none()
        && let Some(volume) = volume::load(state, name).exit_code(1)?
    {
        return Ok(volume::described(state, &volume));
    }
    let (what, hint) = match kind {
        Some(InspectType::Image) => ("image", "`mydocker images` lists them"),
        _ => (
            "container, image or volume",
            "`mydocker ps`, `mydocker images` and `mydocker volume ls` list what there is",
        ),
    };
    let error = anyhow!("no such {what}: {name}");
    Err(with_exit_code(with_hint(error, hint), 1))
}

fn time(time: Option<OffsetDateTime>) -> String {
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "0001-01-01T00:00:00Z".to_owned())
}

/// `Config`: what the container was made with.
fn config(record: &Record) -> Map<String, Value> {
    let mut config = record.shown.config.clone();
    config.insert("Image".into(), record.image.clone().into());
    config.insert("Labels".into(), json!(record.labels));
    config.insert(
        "StopSignal".into(),
        record
            .stop_signal
            .clone()
            .unwrap_or_else(|| "SIGTERM".into())
            .into(),
    );
    if let Some(check) = &record.health_check {
        config.insert("Healthcheck".into(), json!(check));
    }
    config
}

/// `State`: what it does now.
fn state_of(state: &State, record: &Record, status: &Status) -> Value {
    let restarting = record.is_restarting(state, status);
    let exit = match status {
        Status::Exited(exit) => Some(exit),
        _ => None,
    };
    let code = match (exit, &record.failed) {
        // -1 where nobody saw it.
        (Some(exit), _) => exit.code.unwrap_or(-1),
        (None, Some(why)) => code_of(why).unwrap_or(128),
        (None, None) => 0,
    };
    json!({
        "Status": if restarting { super::ps::RESTARTING } else { status.word() },
        "Running": status.is_alive(),
        "Paused": matches!(status, Status::Paused { .. }),
        "Restarting": restarting,
        "OOMKilled": exit.is_some_and(|exit| exit.oom),
        "Dead": matches!(status, Status::Damaged(_)),
        "Pid": status.pid().unwrap_or(0),
        "ExitCode": code,
        "Error": record.failed.as_deref().unwrap_or_default(),
        "StartedAt": time(record.started),
        "FinishedAt": time(exit.map(|exit| exit.at)),
    })
}

fn container(state: &State, record: &Record) -> Result<Value> {
    let status = record.status(state);
    let (path, args) = record
        .args
        .split_first()
        .map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let dir = state.container(&record.id);
    // They are where the container is, and only as long as it lives.
    let in_etc = |file: &str| {
        let path = status
            .pid()
            .map(|pid| format!("/proc/{pid}/root/etc/{file}"));
        path.unwrap_or_default()
    };
    let mut host_config = record.shown.host_config.clone();
    host_config.insert("AutoRemove".into(), record.remove.into());
    let lowers = record.lowers().into_iter();
    let layers: Vec<_> = lowers.map(|layer| layer.display().to_string()).collect();
    let mut object = json!({
        "Id": record.id,
        "Created": time(Some(record.created)),
        "Path": path,
        "Args": args,
        "State": state_of(state, record, &status),
        "Image": record.image_id,
        "ResolvConfPath": in_etc("resolv.conf"),
        "HostnamePath": in_etc("hostname"),
        "HostsPath": in_etc("hosts"),
        "LogPath": log_path(state, record),
        "Name": format!("/{}", record.name),
        "RestartCount": record.restarts,
        "Driver": "overlay",
        "Platform": "linux",
        "HostConfig": host_config,
        "GraphDriver": {
            "Name": "overlay",
            "Data": {
                "LowerDir": layers.join(":"),
                "UpperDir": state.upper(&record.id),
                "WorkDir": dir.join("work"),
                "MergedDir": state.rootfs(&record.id),
            },
        },
        "Mounts": record.shown.mounts,
        "Config": config(record),
        "NetworkSettings": {
            "Ports": {}, "IPAddress": "", "Gateway": "", "MacAddress": "", "Networks": {},
        },
        "Runtime": record.runtime,
        "Bundle": dir,
    });
    if let Some(health) = &record.health {
        object["State"]["Health"] = json!(health);
    }
    Ok(object)
}

fn of_image(image: &Image) -> Value {
    let config = &image.raw_config;
    let tags: Vec<&String> = image
        .names
        .iter()
        .filter(|name| !name.contains('@'))
        .collect();
    let digests = image.repo_digests().into_iter();
    let digests: Vec<String> = digests
        .map(|(name, digest)| format!("{name}@{digest}"))
        .collect();
    // With the fields that it need not have: whoever asks for one by a template gets it.
    let mut settings = json!({
        "User": "", "Env": null, "Cmd": null, "Entrypoint": null, "WorkingDir": "", "Volumes": null,
        "ExposedPorts": null, "Labels": null, "OnBuild": null, "StopSignal": "", "Shell": null,
        "Healthcheck": null,
    });
    if let (Some(all), Some(own)) = (settings.as_object_mut(), config["config"].as_object()) {
        all.extend(own.clone());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let last = config["history"].as_array().and_then(|all| all.last());
    json!({
        "Id": image.id,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": time(Some(image.created)),
        "Comment": last.map_or_else(String::new, |last| text(&last["comment"])),
        "Author": text(&config["author"]),
        "Architecture": config["architecture"],
        "Os": config["os"],
        "Size": image.size,
        "Config": settings,
        "RootFS": {"Type": "layers", "Layers": image.diff_ids},
        "GraphDriver": {"Name": "overlay", "Data": {"Layers": image.layers}},
    })
}

/// The newest file of its log. One that was started has a path before there is a file, which is begun with
/// what is printed first: whoever follows it may wait there.
fn log_path(state: &State, record: &Record) -> PathBuf {
    let dir = state.container(&record.id);
    let was_started = record.started.is_some() || record.exit.is_some();
    let first = (was_started && !record.log.none).then_some(log::FIRST);
    let newest = log::numbers(&dir).last().copied().or(first);
    newest.map_or_else(PathBuf::new, |newest| log::path(&dir, newest))
}
