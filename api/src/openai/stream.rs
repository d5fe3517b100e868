//! `stream=true`: the text as server-sent events.
//!
//! The connection is kept alive while the job runs; its text follows segment by segment, then `transcript.text.done`.
//! A job that fails ends the stream with an error object, which the official clients raise.

use std::time::Duration;

use dalston_schema::{JobId, Transcript};
use futures_util::stream::{self, StreamExt};
use poem::web::sse::{Event, SSE};
use poem::{IntoResponse, Response};
use serde_json::{Value, json};

use super::request::{OpenAiRequest, ResponseFormat};
use super::{response, sync};
use crate::error::ApiError;
use crate::state::App;

/// Time between two signs of life.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Answers with the events of a job.
#[must_use]
pub fn answer(app: App, job: JobId, request: OpenAiRequest) -> Response {
    let events = stream::once(async move {
        let result = sync::transcript_of(&app, job, request.endpoint).await;
        stream::iter(match result {
            Ok(transcript) => events(&request, &transcript),
            Err(error) => vec![failure(&error)],
        })
    })
    .flatten()
    .map(|event| Event::message(event.to_string()));
    SSE::new(events).keep_alive(KEEP_ALIVE).into_response()
}

fn events(request: &OpenAiRequest, transcript: &Transcript) -> Vec<Value> {
    let mut events = Vec::new();
    let mut written = String::new();
    for (index, segment) in transcript.segments.iter().enumerate() {
        let text = segment.text.trim();
        if text.is_empty() {
            continue;
        }
        let delta = if written.is_empty() {
            text.to_owned()
        } else {
            format!(" {text}")
        };
        written.push_str(&delta);
        let mut event = json!({"type": "transcript.text.delta", "delta": delta});
        if request.format == ResponseFormat::DiarizedJson {
            event["segment_id"] = json!(segment.id);
        }
        events.push(event);
        if request.format == ResponseFormat::DiarizedJson {
            events.push(response::diarized_segment(transcript, index));
        }
    }
    let mut done = json!({"type": "transcript.text.done", "text": transcript.text.trim()});
    if request.logprobs {
        done["logprobs"] = response::logprobs(transcript);
    }
    events.push(done);
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
    use crate::form::Fields;
    use crate::openai::request::{self, Endpoint};

    #[test]
    fn the_deltas_add_up_to_the_text() {
        let mut sample = transcript(&[
            (0.0, 1.0, "Good morning.", Some("SPEAKER_00")),
            (1.0, 2.0, "", None),
            (2.0, 3.0, "And welcome.", Some("SPEAKER_01")),
        ]);
        sample.text = "Good morning. And welcome.".to_owned();
        let mut fields = Fields::default();
        fields.push("model".to_owned(), "gpt-4o-transcribe".to_owned());
        let mut request = request::read(Endpoint::Transcriptions, &fields).unwrap();
        let kinds = |events: &[Value]| -> Vec<String> {
            events
                .iter()
                .map(|event| event["type"].as_str().unwrap().to_owned())
                .collect()
        };
        let plain = events(&request, &sample);
        assert_eq!(
            kinds(&plain),
            [
                "transcript.text.delta",
                "transcript.text.delta",
                "transcript.text.done"
            ]
        );
        let joined: String = plain
            .iter()
            .filter_map(|event| event["delta"].as_str())
            .collect();
        assert_eq!(joined, sample.text);

        request.format = ResponseFormat::DiarizedJson;
        let diarized = events(&request, &sample);
        assert_eq!(diarized[1]["type"], "transcript.text.segment");
        assert_eq!(diarized[0]["segment_id"], diarized[1]["id"]);
    }
}
