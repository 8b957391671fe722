//! Layers on their way to a registry: while they are compressed, or as they are.

use super::false_registry::{Answer, FalseRegistry, Heard};
use super::images_made::Entry;
use super::kit::wait_for;
use super::registries::{Registry, pushed, tool};
use super::{Desk, Place, Row};
use anyhow::{Result, anyhow, ensure};
use std::sync::{Arc, Mutex};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "registry: what it does not take while it is made is sent again, whole",
        run: no_stream,
    },
    Row {
        name: "registry: what it is known to have is not sent while it is compressed",
        run: known_layers,
    },
    Row {
        name: "registry: a layer that compression cannot shrink goes as it is",
        run: noise,
    },
    Row {
        name: "registry: names that come and go during a push are as they were made",
        run: meanwhile,
    },
];

fn no_stream(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.import("made", vec![], &[])?;
    // The uploads: refused when they begin, when they are sent, and when they are to be ended.
    for refused in [("POST", 0), ("PATCH", 0), ("PUT", 0)] {
        let registry = FalseRegistry::start(move |heard| {
            let has_content = heard.method == "PUT" && heard.header("content-length") != Some("0");
            let is_refused = (heard.method.as_str(), heard.before) == refused && !has_content;
            match heard.method.as_str() {
                _ if heard.path == "/v2/" => Answer::new(200, "{}"),
                "HEAD" => Answer::new(404, ""),
                _ if is_refused && !heard.path.contains("manifests") => Answer::new(405, ""),
                "POST" | "PATCH" => {
                    Answer::new(202, "").with("Location", "/v2/made/blobs/uploads/1")
                }
                _ => Answer::new(201, ""),
            }
        })?;
        let name = format!("{}/made:1", registry.host());
        desk.go(&["tag", "made", &name])?.ok()?;
        desk.go(&["push", "-q", &name])?.ok()?;
        let heard = registry.heard();
        let is_whole = |request: &&Heard| {
            let length = request
                .header("content-length")
                .and_then(|text| text.parse::<u64>().ok());
            request.method == "PUT" && request.path.contains("blobs") && length > Some(100_000)
        };
        ensure!(
            heard.iter().filter(is_whole).count() == 1,
            "{refused:?}: {heard:?}"
        );
        desk.go(&["rmi", "-f", &name])?.ok()?;
        desk.import("made", vec![], &[])?;
    }
    Ok(())
}

fn known_layers(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let registry = FalseRegistry::start(|heard| match heard.method.as_str() {
        _ if heard.path == "/v2/" => Answer::new(200, "{}"),
        "HEAD" => Answer::new(404, ""),
        "POST" => Answer::new(202, "").with("Location", "/v2/app/blobs/uploads/1"),
        "PATCH" => Answer::new(405, ""),
        _ => Answer::new(201, ""),
    })?;
    desk.import("base", vec![], &[])?;
    let mut patches = Vec::new();
    for version in ["1", "2"] {
        let text = format!("FROM base\nRUN touch /same\nRUN touch /other{version}\n");
        desk.write("context/Dockerfile", &text)?;
        let name = format!("{}/app:{version}", registry.host());
        desk.go(&["build", "-q", "-t", &name, &desk.text("context")])?
            .ok()?;
        let before = registry.heard().len();
        desk.go(&["push", "-q", &name])?.ok()?;
        let heard = registry.heard();
        patches.push(
            heard[before..]
                .iter()
                .filter(|it| it.method == "PATCH")
                .count(),
        );
    }
    ensure!(patches == [3, 1], "{patches:?}");
    Ok(())
}

fn noise(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let registry = Registry::start(&desk, "registry", "")?;
    desk.import("base", Vec::new(), &[])?;
    let mut state = 1u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let noise: Vec<u8> = noise.take(300_000).collect();
    desk.write("context/Dockerfile", "FROM base\nCOPY noise /\n")?;
    std::fs::write(desk.path("context/noise"), &noise)?;
    let name = registry.name("noise:1");
    desk.go(&["build", "-t", &name, "context"])?.ok()?;
    let digest = pushed(&desk.go(&["push", &name])?.ok()?)?;
    let there = format!("docker://{name}");
    let args = ["inspect", "--tls-verify=false", "--raw", &there];
    let manifest = tool(&desk, "skopeo", &args)?.ok()?.out;
    let manifest: serde_json::Value = serde_json::from_str(&manifest)?;
    let kinds = [0, 1].map(|at| manifest["layers"][at]["mediaType"].as_str());
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let gzip = format!("{layer}+gzip");
    ensure!(kinds == [Some(&*gzip), Some(layer)], "{manifest}");
    let layers = desk.inspect(&name, "{{json .RootFS.Layers}}")?;
    let layers: Vec<String> = serde_json::from_str(&layers)?;
    ensure!(
        manifest["layers"][1]["digest"] == *layers[1],
        "{manifest}, {layers:?}"
    );
    // Others read it, too, and it comes back.
    let archive = desk.text("copy.tar");
    let to = format!("docker-archive:{archive}:copy:1");
    let from = ["copy", "--insecure-policy", "--src-tls-verify=false"];
    tool(&desk, "skopeo", &[&from[..], &[&there, &to]].concat())?.ok()?;
    desk.go(&["rmi", "-f", &name, "base"])?.ok()?;
    desk.go(&["load", "-i", &archive])?.ok()?;
    desk.go(&["rmi", "copy:1"])?.ok()?;
    let done = desk.go(&["pull", &name])?.ok()?;
    ensure!(done.out.contains(&digest), "{done:?}");
    desk.go(&["create", "--name", "box", &name, "true"])?.ok()?;
    desk.go(&["cp", "box:/noise", &desk.text("back")])?.ok()?;
    ensure!(std::fs::read(desk.path("back"))? == noise, "another file");
    Ok(())
}

/// What becomes of the name that is pushed and of the image's other one, when they change while the
/// registry is slow with the manifest.
fn meanwhile(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let (gate, is_manifest) = (Arc::new(Mutex::new(())), |heard: &Heard| {
        heard.method == "PUT" && heard.path.contains("/manifests/")
    });
    let held = gate.clone();
    let registry = FalseRegistry::start(move |heard| match heard.method.as_str() {
        _ if heard.path == "/v2/" => Answer::new(200, "{}"),
        "HEAD" => Answer::new(404, ""),
        "POST" | "PATCH" => Answer::new(202, "").with("Location", "/v2/app/blobs/uploads/1"),
        _ => {
            // Until the row lets it go on.
            drop(is_manifest(heard).then(|| held.lock()));
            Answer::new(201, "")
        }
    })?;
    let name = format!("{}/app:1", registry.host());
    desk.import("other", vec![Entry::Dir("else")], &[])?;
    let other = desk.inspect("other", "{{.Id}}")?;
    // Compressed on its way, or as it is there from the push before.
    for (again, case) in [false, true]
        .iter()
        .flat_map(|again| (0..4).map(move |case| (again, case)))
    {
        desk.import("made", Vec::new(), &[])?;
        desk.go(&["tag", "made", &name])?.ok()?;
        let made = desk.inspect("made", "{{.Id}}")?;
        if *again {
            desk.go(&["push", "-q", &name])?.ok()?;
        }
        let change: &[&str] = match case {
            0 => &["tag", "other", &name],
            1 => &["tag", "other", "made"],
            2 => &["rmi", &name],
            _ => &["rmi", "-f", &made],
        };
        let wanted = match case {
            0 => [Some(&other), Some(&made)],
            1 => [Some(&made), Some(&other)],
            2 => [None, Some(&made)],
            _ => [None, None],
        };
        let count = || {
            registry
                .heard()
                .iter()
                .filter(|heard| is_manifest(heard))
                .count()
        };
        let before = count();
        std::thread::scope(|scope| -> Result<()> {
            let closed = gate.lock();
            let push = scope.spawn(|| desk.go(&["push", "-q", &name]));
            wait_for("the manifest", || Ok((count() > before).then_some(())))?;
            desk.go(change)?.ok()?;
            drop(closed);
            push.join().map_err(|_| anyhow!("no push"))??.ok()?;
            Ok(())
        })?;
        for (name, wanted) in [name.as_str(), "made"].iter().zip(wanted) {
            let found = desk.go(&["image", "inspect", "-f", "{{.Id}}", name])?;
            let found = (found.code == 0).then(|| found.line().to_owned());
            ensure!(
                found.as_ref() == wanted,
                "{change:?}, again {again}: {name} is {found:?}"
            );
        }
    }
    Ok(())
}
