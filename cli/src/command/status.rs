//! `dalston status`: whether the server is well, and how busy.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::config::Config;
use crate::local_server::{Absent, Connection};
use crate::print;

/// Options of `dalston status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints health and system status; answers 1 when the server is not healthy.
pub async fn run(options: Status, config: Config) -> anyhow::Result<ExitCode> {
    let client = Connection::open(&config, Absent::Fail)
        .await?
        .client
        .clone();
    let healthy = client.is_healthy().await;
    let system = match client.get(&["v1", "system", "status"], &[]).await {
        Ok(system) => system,
        // Without a key there is still the health.
        Err(error) if !client.has_key() => {
            tracing::debug!(error = format!("{error:#}"), "No system status");
            Value::Null
        }
        Err(error) => return Err(error),
    };
    let status = json!({ "server": client.base().as_str(), "healthy": healthy, "system": system });
    if options.json {
        print::json(&status);
    } else {
        print::line(outline(&status, 0).trim_end());
    }
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A JSON object as an indented outline: a line for each value, one for each item of a list; what is empty is left out.
fn outline(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let fields = value.as_object().into_iter().flatten();
    let line = |(name, value): (&String, &Value)| {
        let name = name.replace('_', " ");
        match value {
            Value::Object(_) => format!("{indent}{name}:\n{}", outline(value, depth + 1)),
            Value::Array(items) if items.is_empty() => format!("{indent}{name}: none\n"),
            Value::Array(items) => {
                let items: String = items
                    .iter()
                    .map(|item| format!("{indent}  - {}\n", flat(item)))
                    .collect();
                format!("{indent}{name}:\n{items}")
            }
            other => format!("{indent}{name}: {}\n", flat(other)),
        }
    };
    fields
        .filter(|(_, value)| !is_empty(value))
        .map(line)
        .collect()
}

/// A value on one line.
fn flat(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !is_empty(value));
            fields
                .map(|(name, value)| format!("{}: {}", name.replace('_', " "), flat(value)))
                .collect::<Vec<_>>()
                .join(", ")
        }
        Value::Array(items) => items.iter().map(flat).collect::<Vec<_>>().join(" "),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(str::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outline_shows_every_known_value_once() {
        let queue = json!({"stage": "merge", "model": "", "waiting": 3});
        let status = json!({"healthy": true, "system": {"queues": [queue], "workers": [], "gpu": null, "database": {"status": "ok"}}});
        let expected = "\
healthy: true
system:
  database:
    status: ok
  queues:
    - stage: merge, waiting: 3
  workers: none
";
        assert_eq!(sorted(&outline(&status, 0)), sorted(expected));
    }

    /// JSON objects keep or sort their fields, as serde_json is built; the outline follows.
    fn sorted(text: &str) -> Vec<String> {
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| {
                line.split(", ")
                    .collect::<std::collections::BTreeSet<_>>()
                    .into_iter()
                    .collect::<Vec<_>>()
                    .join(", ")
            })
            .collect();
        lines.sort();
        lines
    }
}
