//! `stream=true`: the text as server-sent events.
//!
//! Text follows as soon as it is certain, while the job runs; then `transcript.text.done`. An answer with speakers comes
//! segment by segment at the end, because who speaks is known only then. A job that fails ends the stream with an error
//! object, which the official clients raise.

use std::time::Duration;

use dalston_schema::transcript::word_space;
use dalston_schema::{JobId, Transcript};
use futures_util::stream;
use poem::web::sse::{Event, SSE};
use poem::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::request::{OpenAiRequest, ResponseFormat};
use super::{response, sync};
use crate::error::ApiError;
use crate::live_text::LiveText;
use crate::state::App;

/// Time between two signs of life.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that a slow client may be behind.
const AHEAD: usize = 16;

/// Answers with the events of a job.
#[must_use]
pub fn answer(app: App, job: JobId, request: OpenAiRequest) -> Response {
    let (sender, receiver) = channel(AHEAD);
    tokio::spawn(async move {
        // A client that has gone away ends it.
        let _ = follow(&app, job, &request, &sender).await;
    });
    SSE::new(stream::unfold(receiver, next))
        .keep_alive(KEEP_ALIVE)
        .into_response()
}

async fn next(mut events: Receiver<Value>) -> Option<(Event, Receiver<Value>)> {
    let event = events.recv().await?;
    Some((Event::message(event.to_string()), events))
}

/// Nobody listens any more.
struct Gone;

impl From<tokio::sync::mpsc::error::SendError<Value>> for Gone {
    fn from(_: tokio::sync::mpsc::error::SendError<Value>) -> Self {
        Self
    }
}

async fn follow(
    app: &App,
    job: JobId,
    request: &OpenAiRequest,
    events: &Sender<Value>,
) -> Result<(), Gone> {
    let mut live = LiveText::new(app, job);
    let with_speakers = request.format == ResponseFormat::DiarizedJson;
    let end = sync::transcript_of(app, job, request.endpoint);
    tokio::pin!(end);
    let mut follows = !with_speakers;
    let result = loop {
        tokio::select! {
            result = &mut end => break result,
            () = events.closed() => return Err(Gone),
            more = live.more(), if follows => match more {
                Ok(text) => events.send(delta(&text)).await?,
                // The end is waited for all the same, and brings the whole text.
                Err(error) => {
                    tracing::warn!(%error, "the text of job {job} cannot be told before its end");
                    follows = false;
                }
            },
        }
    };
    match result {
        Ok(transcript) => {
            if with_speakers {
                for event in with_segments(&transcript) {
                    events.send(event).await?;
                }
            } else {
                let rest = live.rest(transcript.text.trim());
                if !rest.is_empty() {
                    events.send(delta(&rest)).await?;
                }
            }
            events.send(done(request, &transcript)).await?;
        }
        Err(error) => events.send(failure(&error)).await?,
    }
    Ok(())
}

fn delta(text: &str) -> Value {
    json!({"type": "transcript.text.delta", "delta": text})
}

fn done(request: &OpenAiRequest, transcript: &Transcript) -> Value {
    let mut done = json!({"type": "transcript.text.done", "text": transcript.text.trim()});
    if request.logprobs {
        done["logprobs"] = response::logprobs(transcript);
    }
    done
}

/// The text segment by segment, each followed by who said it.
fn with_segments(transcript: &Transcript) -> Vec<Value> {
    let mut events = Vec::new();
    let mut space = "";
    for (index, segment) in transcript.segments.iter().enumerate() {
        let text = segment.text.trim();
        if text.is_empty() {
            continue;
        }
        let mut delta = delta(&format!("{space}{text}"));
        delta["segment_id"] = json!(segment.id);
        events.push(delta);
        events.push(response::diarized_segment(transcript, index));
        space = word_space(&transcript.metadata.language);
    }
    events
}

fn failure(error: &ApiError) -> Value {
    error.clone().into_openai().body().clone()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::export::samples::transcript;

    #[test]
    fn with_speakers_every_delta_names_its_segment_and_they_add_up_to_the_text() {
        let sample = transcript(&[
            (0.0, 1.0, "Good morning.", Some("SPEAKER_00")),
            (1.0, 2.0, "", None),
            (2.0, 3.0, "And welcome.", Some("SPEAKER_01")),
        ]);
        let events = with_segments(&sample);
        let kinds: Vec<&str> = events
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        let pair = ["transcript.text.delta", "transcript.text.segment"];
        assert_eq!(kinds, [pair, pair].concat());
        assert_eq!(events[0]["segment_id"], events[1]["id"]);
        assert_eq!(events[3]["speaker"], "Bea");
        let deltas = events.iter().filter_map(|event| event["delta"].as_str());
        assert_eq!(deltas.collect::<String>(), "Good morning. And welcome.");
    }
}
