//! `dalston jobs`: list, show, await and cancel jobs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use tokio::time::Instant;

use super::transcribe::Format;
use crate::client::{Client, events};
use crate::config::Config;
use crate::local_server::{Absent, Connection};
use crate::print;

/// The `dalston jobs` commands.
#[derive(Debug, Subcommand)]
pub enum Jobs {
    /// List jobs, newest first
    List(List),
    /// Show one job
    Get(Get),
    /// Wait until a job has ended, then print its text
    Wait(Wait),
    /// Cancel a job that has not ended
    Cancel(Cancel),
}

#[derive(Debug, Args)]
pub struct List {
    /// Only jobs in this state
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// How many to show, 1 to 100
    #[arg(long, default_value = "20", value_parser = RangedU64ValueParser::<u32>::new().range(1..=100))]
    limit: u32,
    /// Only jobs made since this time (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Go on after this cursor of an earlier list
    #[arg(long)]
    cursor: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelling,
    Cancelled,
}

#[derive(Debug, Args)]
pub struct Get {
    /// The job's id
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Wait {
    /// The job's id
    id: String,
    /// Give up after this many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// What to print; without it what the name of the output file says, else txt
    #[arg(long, short = 'f', value_enum)]
    format: Option<Format>,
    /// File to write to
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Cancel {
    /// The job's id
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const PATH: [&str; 3] = ["v1", "audio", "transcriptions"];

/// Runs one of the commands; `wait` answers 1 when the job failed.
pub async fn run(command: Jobs, config: Config, quiet: bool) -> anyhow::Result<ExitCode> {
    let client = Connection::open(&config, Absent::Fail)
        .await?
        .client
        .clone();
    match command {
        Jobs::List(options) => list(&client, options).await?,
        Jobs::Get(options) => {
            let job = client.get(&path(&[&options.id]), &[]).await?;
            if options.json {
                print::json(&job);
            } else {
                print::line(summary(&job));
            }
        }
        Jobs::Wait(options) => return wait(&client, options, quiet).await,
        Jobs::Cancel(options) => {
            let answer = client
                .post(&path(&[&options.id, "cancel"]), &Value::Null)
                .await?;
            if options.json {
                print::json(&answer);
            } else {
                print::line(answer["message"].as_str().unwrap_or("Cancelled."));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The path below all jobs.
fn path<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    PATH.iter().copied().chain(rest.iter().copied()).collect()
}

async fn list(client: &Client, options: List) -> anyhow::Result<()> {
    let status = options
        .status
        .and_then(|status| Some(status.to_possible_value()?.get_name().to_owned()));
    let query: Vec<(&str, String)> = [
        ("limit", Some(options.limit.to_string())),
        ("status", status),
        ("since", options.since),
        ("cursor", options.cursor),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    let page = client.get(&PATH, &query).await?;
    if options.json {
        print::json(&page);
        return Ok(());
    }
    let rows: Vec<[String; 6]> = page["jobs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(row)
        .collect();
    print::line(print::table(
        ["ID", "STATUS", "CREATED", "AUDIO", "WORDS", "NAME"],
        &rows,
    ));
    if let Some(cursor) = page["cursor"].as_str() {
        print::note(format!("More: dalston jobs list --cursor '{cursor}'"));
    }
    Ok(())
}

fn row(job: &Value) -> [String; 6] {
    let text = |name: &str| job[name].as_str().unwrap_or("-").to_owned();
    // To the second is enough to read.
    let created = text("created_at")
        .chars()
        .take(19)
        .collect::<String>()
        .replace('T', " ");
    let words = job["result_word_count"]
        .as_u64()
        .map_or_else(|| "-".to_owned(), |count| count.to_string());
    [
        text("id"),
        text("status"),
        created,
        audio(job),
        words,
        text("display_name"),
    ]
}

fn audio(job: &Value) -> String {
    job["audio_duration_seconds"]
        .as_f64()
        .map_or_else(|| "-".to_owned(), print::duration)
}

/// One job for people: its facts, its stages, its text or error.
fn summary(job: &Value) -> String {
    let text = |name: &str| job[name].as_str().unwrap_or("-").to_owned();
    let mut lines = vec![
        format!("{}  {}", text("id"), text("display_name")),
        format!("status    {}", text("status")),
        format!("created   {}", text("created_at")),
        format!("completed {}", text("completed_at")),
        format!("audio     {}", audio(job)),
        format!("language  {}", text("language_code")),
    ];
    for stage in job["stages"].as_array().into_iter().flatten() {
        let took = stage["duration_ms"]
            .as_f64()
            .map_or_else(|| "-".to_owned(), |ms| print::duration(ms / 1000.0));
        lines.push(format!(
            "stage     {} {} {took}",
            stage["stage"].as_str().unwrap_or("-"),
            stage["status"].as_str().unwrap_or("-")
        ));
    }
    if let Some(error) = job["error"].as_str() {
        lines.push(format!("error     {error}"));
    }
    if let Some(text) = job["text"].as_str() {
        lines.push(String::new());
        lines.push(text.trim().to_owned());
    }
    lines.join("\n")
}

async fn wait(client: &Client, options: Wait, quiet: bool) -> anyhow::Result<ExitCode> {
    let deadline = match options.timeout {
        Some(seconds) => Some(
            Instant::now()
                + Duration::try_from_secs_f64(seconds)
                    .map_err(|_| crate::Usage(format!("--timeout {seconds} is no time")))?,
        ),
        None => None,
    };
    let job = events::follow(client, &options.id, deadline, |_| {}).await?;
    if job["status"] != "completed" {
        if !quiet {
            print::note(events::how_it_ended(&job));
        }
        return Ok(ExitCode::FAILURE);
    }
    let format = Format::choose(options.format, options.output.as_deref());
    let text = client
        .text(&path(&[&options.id, "export", format.as_str()]), &[])
        .await?;
    super::export::write(options.output.as_deref(), &text)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_shows_what_is_known() {
        let job = json!({"id": "1", "status": "completed", "display_name": "a.wav", "created_at": "2026-11-21T08:00:00.123Z", "audio_duration_seconds": 75.0, "result_word_count": 12});
        assert_eq!(
            row(&job),
            [
                "1",
                "completed",
                "2026-11-21 08:00:00",
                "1:15",
                "12",
                "a.wav"
            ]
        );
        assert_eq!(
            row(&json!({"id": "2", "status": "pending"})),
            ["2", "pending", "-", "-", "-", "-"]
        );
    }

    #[test]
    fn a_summary_ends_with_the_text_or_the_error() {
        let done = json!({"id": "1", "status": "completed", "text": " Hello. ", "stages": [{"stage": "transcribe", "status": "completed", "duration_ms": 1500}]});
        assert!(summary(&done).ends_with("\n\nHello."));
        assert!(summary(&done).contains("stage     transcribe completed 1.5 s"));
        assert!(
            summary(&json!({"id": "1", "status": "failed", "error": "no model"}))
                .ends_with("error     no model")
        );
    }
}
