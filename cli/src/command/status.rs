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

/// A JSON value as an indented outline, nulls left out.
fn outline(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let nested = |name: &str, value: &Value| match value {
        Value::Null => String::new(),
        Value::Object(fields) if fields.is_empty() => String::new(),
        Value::Array(items) if items.is_empty() => format!("{indent}{name}: none\n"),
        Value::Array(_) | Value::Object(_) => {
            format!("{indent}{name}:\n{}", outline(value, depth + 1))
        }
        Value::String(text) => format!("{indent}{name}: {text}\n"),
        other => format!("{indent}{name}: {other}\n"),
    };
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| nested(&name.replace('_', " "), value))
            .collect(),
        Value::Array(items) => items.iter().map(|item| nested("-", item)).collect(),
        other => nested("-", other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outline_shows_every_known_value_once() {
        let status = json!({"healthy": true, "system": {"queue_depth": 3, "workers": [{"host": "a"}], "gpu": null, "jobs": []}});
        assert_eq!(
            outline(&status, 0),
            "healthy: true\nsystem:\n  jobs: none\n  queue depth: 3\n  workers:\n    -:\n      host: a\n"
        );
    }
}
