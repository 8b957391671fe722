//! A layer that is sent to a registry while it is compressed.

use super::false_registry::{Answer, FalseRegistry, Heard};
use super::{Desk, Place, Row};
use anyhow::{Result, ensure};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "registry: what it does not take while it is made is sent again, whole",
        run: no_stream,
    },
    Row {
        name: "registry: what it is known to have is not sent while it is compressed",
        run: known_layers,
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
