//! The table and the file.

use anyhow::{Context, Result};
use serde::Serialize;

/// One figure of ours beside what it is held against.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) name: String,
    /// Our figure.
    pub(crate) ours: f64,
    /// The reference's figure.
    pub(crate) reference: f64,
    /// Ours divided by the reference.
    pub(crate) ratio: f64,
    /// Unit of both.
    pub(crate) unit: &'static str,
    /// What to reach, in words; not part of the file.
    #[serde(skip)]
    pub(crate) target: &'static str,
}

impl Row {
    pub(crate) fn new(
        name: impl Into<String>,
        ours: f64,
        reference: f64,
        unit: &'static str,
        target: &'static str,
    ) -> Self {
        Self {
            name: name.into(),
            ours,
            reference,
            ratio: ours / reference,
            unit,
            target,
        }
    }
}

pub(crate) fn print(rows: &[Row]) {
    println!(
        "\n{:<34} {:>12} {:>12} {:>7}  {:<12} target",
        "", "ours", "reference", "ratio", "unit"
    );
    for row in rows {
        println!(
            "{:<34} {:>12.3} {:>12.3} {:>7.2}  {:<12} {}",
            row.name, row.ours, row.reference, row.ratio, row.unit, row.target
        );
    }
}

/// Writes `bench/out/queue.json` beside this crate's folder.
pub(crate) fn write(rows: &[Row]) -> Result<()> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../out");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("queue.json");
    std::fs::write(&file, serde_json::to_string_pretty(rows)?)
        .with_context(|| format!("writing {}", file.display()))
}
