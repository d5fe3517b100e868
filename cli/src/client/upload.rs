//! Submits a file or URL for transcription. A file is streamed from disk, and a submit that fails on its way is repeated
//! under the same idempotency key, so that it never makes two jobs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use futures_util::TryStreamExt;
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::{ApiError, Client};

/// Times a submit is tried.
const ATTEMPTS: u32 = 3;

/// What to transcribe.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file on this machine.
    File(PathBuf),
    /// A URL that the server fetches.
    Url(String),
    /// Files that are one recording.
    Tracks(Vec<Track>),
}

/// One of several files of a recording; its name is the speaker's.
#[derive(Debug, Clone)]
pub struct Track {
    /// The file.
    pub path: PathBuf,
    /// Where it begins, in seconds.
    pub offset: f64,
}

impl Source {
    /// A name for people and for output files.
    pub fn name(&self) -> String {
        let path = match self {
            Source::File(path) => path.clone(),
            Source::Url(url) => url.split(['?', '#']).next().unwrap_or_default().into(),
            Source::Tracks(tracks) => tracks
                .first()
                .map(|track| track.path.clone())
                .unwrap_or_default(),
        };
        file_name(&path)
    }

    /// Bytes to send, where they are known.
    pub fn length(&self) -> Option<u64> {
        let length = |path: &Path| std::fs::metadata(path).map(|file| file.len()).ok();
        match self {
            Source::File(path) => length(path),
            Source::Url(_) => None,
            Source::Tracks(tracks) => tracks.iter().map(|track| length(&track.path)).sum(),
        }
    }
}

/// Submits `source` with the given form fields and answers the new job; `sent` is told the bytes of each piece sent (and a
/// negative number when a failed try starts over).
pub async fn submit(
    client: &Client,
    source: &Source,
    fields: &[(&'static str, String)],
    sent: impl Fn(i64) + Clone + Send + Sync + 'static,
) -> anyhow::Result<Value> {
    let key = Uuid::now_v7().to_string();
    let mut attempt = 1;
    loop {
        let progress = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
        let count = {
            let (sent, progress) = (sent.clone(), std::sync::Arc::clone(&progress));
            move |bytes: i64| {
                progress.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
                sent(bytes);
            }
        };
        let form = form(source, fields, count).await?;
        let request = client
            .request(Method::POST, &["v1", "audio", "transcriptions"])
            .header("Idempotency-Key", &key)
            .multipart(form);
        let error = match client.send(request).await {
            Ok(answer) => return answer.json().await.context("reading the new job"),
            Err(error) if attempt < ATTEMPTS && is_passing(&error) => error,
            Err(error) => return Err(error),
        };
        tracing::warn!(
            error = format!("{error:#}"),
            attempt,
            "Submitting {} failed; trying again",
            source.name()
        );
        sent(-progress.load(std::sync::atomic::Ordering::Relaxed));
        tokio::time::sleep(Duration::from_secs(u64::from(attempt))).await;
        attempt += 1;
    }
}

/// Whether the same request may succeed in a moment: the connection broke, or there is too much to do. A 503 is the
/// server's considered answer: it has waited itself.
fn is_passing(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<ApiError>() {
        Some(refusal) => matches!(refusal.status.as_u16(), 429 | 502 | 504),
        None => error
            .downcast_ref::<reqwest::Error>()
            .is_some_and(|error| !error.is_builder()),
    }
}

async fn form(
    source: &Source,
    fields: &[(&'static str, String)],
    count: impl Fn(i64) + Clone + Send + Sync + 'static,
) -> anyhow::Result<Form> {
    let mut form = Form::new();
    for (name, value) in fields {
        form = form.text(*name, value.clone());
    }
    match source {
        Source::Url(url) => Ok(form.text("audio_url", url.clone())),
        Source::File(path) => Ok(form.part("file", file_part(path, count).await?)),
        Source::Tracks(tracks) => {
            let described = tracks.iter().map(|track| {
                let name = track.path.file_stem().map(|name| name.to_string_lossy());
                json!({"name": name, "offset": track.offset})
            });
            form = form.text("tracks", Value::from_iter(described).to_string());
            for track in tracks {
                form = form.part("file", file_part(&track.path, count.clone()).await?);
            }
            Ok(form)
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || "audio".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

async fn file_part(
    path: &Path,
    count: impl Fn(i64) + Send + Sync + 'static,
) -> anyhow::Result<Part> {
    let file = tokio::fs::File::open(path)
        .await
        .with_context(|| format!("opening {}", path.display()))?;
    let length = file.metadata().await?.len();
    let stream = ReaderStream::with_capacity(file, 64 * 1024)
        .inspect_ok(move |piece| count(piece.len() as i64));
    Ok(Part::stream_with_length(Body::wrap_stream(stream), length).file_name(file_name(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_last_part() {
        assert_eq!(
            Source::File("/a/b/meeting.mp3".into()).name(),
            "meeting.mp3"
        );
        assert_eq!(
            Source::Url("https://host/x/talk.wav?token=1#t".to_owned()).name(),
            "talk.wav"
        );
        assert_eq!(Source::Url("https://host/".to_owned()).name(), "host");
    }
}
