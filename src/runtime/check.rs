//! Reads a config.json.

use crate::linux::Problem;
use anyhow::{Context, Result, anyhow};
use oci_spec::runtime::{Process, Spec};
use std::path::Path;

#[derive(Debug)]
pub struct Checked {
    pub spec: Spec,
    pub warnings: Vec<Problem>,
}

pub fn load(path: &Path) -> Result<Checked> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    parse(&bytes).map_err(|problems| error_of(&path.display().to_string(), &problems))
}

pub fn parse(bytes: &[u8]) -> Result<Checked, Vec<Problem>> {
    let spec = serde_json::from_slice(bytes).map_err(|error| {
        vec![Problem {
            path: String::new(),
            what: error.to_string(),
        }]
    })?;
    Ok(Checked {
        spec,
        warnings: Vec::new(),
    })
}

pub fn parse_process(bytes: &[u8]) -> Result<(Process, Vec<Problem>), Vec<Problem>> {
    let process = serde_json::from_slice(bytes).map_err(|error| {
        vec![Problem {
            path: String::new(),
            what: error.to_string(),
        }]
    })?;
    Ok((process, Vec::new()))
}

pub fn error_of(file: &str, problems: &[Problem]) -> anyhow::Error {
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    anyhow!("{file}: {}", lines.join("\n  "))
}
