//! Follows a job to its end: by the server's event stream, which says how far it is, and by asking now and then where the
//! stream does not get through (proxies that buffer).

use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Client;

/// How often the job is asked for when its stream is quiet or broken.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
/// Failed questions in a row after which the server counts as gone.
const PATIENCE: u32 = 5;

/// How far a job is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The stage that reports, or of which a task has ended, for example `transcribe`.
    pub stage: String,
    /// Share of the job that is done, 0 to 1, when that is told.
    pub share: Option<f64>,
    /// Time until the job is expected to be done, when that is known.
    pub left: Option<Duration>,
}

/// Whether a job in this state will not change any more.
pub fn is_final(status: &str) -> bool {
    matches!(status, "completed" | "failed" | "cancelled")
}

/// How a job ended that did not complete, and why, if there is a reason.
pub fn how_it_ended(job: &Value) -> String {
    let status = job["status"].as_str().unwrap_or("failed");
    match job["error"].as_str() {
        Some(reason) => format!("{status}: {reason}"),
        None => status.to_owned(),
    }
}

/// Waits until job `id` has ended and answers the job object; `report` is told how far it is. Ends with an error at
/// `deadline`.
pub async fn follow(
    client: &Client,
    id: &str,
    deadline: Option<Instant>,
    mut report: impl FnMut(Progress),
) -> anyhow::Result<Value> {
    // Thirty years stand for no deadline.
    let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(1_000_000_000));
    let mut last_event = String::new();
    let mut failures = 0;
    loop {
        let listened = timeout_at(deadline, listen(client, id, &mut last_event, &mut report)).await;
        if listened.is_err() {
            bail!("job {id} is not finished yet; wait on with `dalston jobs wait {id}`");
        }
        match client
            .get(&["v1", "audio", "transcriptions", id], &[])
            .await
        {
            Ok(job) if job["status"].as_str().is_some_and(is_final) => return Ok(job),
            Ok(_) => failures = 0,
            Err(error) if is_final_answer(&error) || failures >= PATIENCE => {
                return Err(error);
            }
            Err(_) => failures += 1,
        }
        sleep_until((Instant::now() + ASK_INTERVAL).min(deadline)).await;
    }
}

/// Whether asking again would be answered alike: not when the server restarts, or has been asked too often.
fn is_final_answer(error: &anyhow::Error) -> bool {
    let answered = error.downcast_ref::<super::ApiError>();
    answered.is_some_and(|answered| !matches!(answered.status.as_u16(), 429 | 502 | 503 | 504))
}

/// Reads the event stream until the job has ended or the stream breaks.
async fn listen(
    client: &Client,
    id: &str,
    last_event: &mut String,
    report: &mut impl FnMut(Progress),
) {
    match read(client, id, last_event, report).await {
        Ok(()) => {}
        Err(error) => {
            tracing::debug!(job.id = id, %error, "The event stream of job {id} broke off");
        }
    }
}

async fn read(
    client: &Client,
    id: &str,
    last_event: &mut String,
    report: &mut impl FnMut(Progress),
) -> anyhow::Result<()> {
    let mut request = client
        .request(
            Method::GET,
            &["v1", "audio", "transcriptions", id, "events"],
        )
        .header("Accept", "text/event-stream");
    if !last_event.is_empty() {
        request = request.header("Last-Event-ID", last_event.as_str());
    }
    let mut body = client.send(request).await?.bytes_stream();
    let mut parser = Parser::default();
    while let Some(chunk) = body.next().await {
        for event in parser.feed(&chunk.context("reading events")?) {
            if let Some(id) = event.id {
                *last_event = id;
            }
            if let Some(progress) = progress(&event.name, &event.data) {
                report(progress);
            }
            if ended(&event.name, &event.data) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn ended(name: &str, data: &Value) -> bool {
    let status = name
        .strip_prefix("job.")
        .or_else(|| data["status"].as_str());
    status.is_some_and(is_final)
}

fn progress(name: &str, data: &Value) -> Option<Progress> {
    let stage = data["stage"].as_str()?.to_owned();
    match name {
        "progress" => Some(Progress {
            stage,
            share: data["progress"].as_f64().map(|share| share.clamp(0.0, 1.0)),
            left: data["eta_seconds"]
                .as_f64()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        }),
        "task.completed" => Some(Progress {
            stage,
            share: None,
            left: None,
        }),
        _ => None,
    }
}

/// One server-sent event.
#[derive(Debug, PartialEq)]
struct Event {
    id: Option<String>,
    name: String,
    data: Value,
}

/// Puts events together from chunks that may end anywhere, as the HTML standard's `text/event-stream` says.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    id: Option<String>,
    name: String,
    data: String,
}

impl Parser {
    fn feed(&mut self, chunk: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in chunk {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            events.extend(self.take(line.strip_suffix('\r').unwrap_or(&line)));
        }
        events
    }

    fn take(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let Parser { id, name, data, .. } = std::mem::take(self);
            // An event without data is only a comment or an id.
            return serde_json::from_str(data.trim_end())
                .ok()
                .map(|data: Value| {
                    let name = if name.is_empty() {
                        data["type"].as_str().unwrap_or_default().to_owned()
                    } else {
                        name
                    };
                    Event { id, name, data }
                });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_come_out_whole_however_the_stream_is_cut() {
        let stream = ": hello\n\nid: 7\nevent: progress\ndata: {\"stage\":\"transcribe\",\ndata: \"progress\":0.5}\n\nevent: job.completed\r\ndata: {}\r\n\r\n";
        let expected = vec![
            Event {
                id: Some("7".to_owned()),
                name: "progress".to_owned(),
                data: json!({"stage": "transcribe", "progress": 0.5}),
            },
            Event {
                id: None,
                name: "job.completed".to_owned(),
                data: json!({}),
            },
        ];
        for size in 1..stream.len() {
            let mut parser = Parser::default();
            let events: Vec<Event> = stream
                .as_bytes()
                .chunks(size)
                .flat_map(|chunk| parser.feed(chunk))
                .collect();
            assert_eq!(events, expected, "chunks of {size}");
        }
    }

    #[test]
    fn the_end_is_known_by_name_or_status() {
        assert!(ended("job.failed", &json!({})));
        assert!(ended("", &json!({"status": "cancelled"})));
        assert!(!ended("job.running", &json!({"status": "running"})));
        assert!(!ended("task.completed", &json!({"stage": "prepare"})));
    }

    #[test]
    fn progress_stays_within_its_bounds() {
        let over = json!({"stage": "transcribe", "progress": 1.2, "eta_seconds": 2.5});
        assert_eq!(
            progress("progress", &over),
            Some(Progress {
                stage: "transcribe".to_owned(),
                share: Some(1.0),
                left: Some(Duration::from_millis(2500)),
            })
        );
        assert_eq!(progress("job.running", &json!({"status": "running"})), None);
    }
}
