//! The bodies of OpenAI's answers, made from a transcript.

use dalston_schema::Transcript;
use dalston_schema::transcript::Word;
use poem::http::{HeaderValue, header};
use poem::{IntoResponse, Response};
use serde_json::{Value, json};

use super::request::{Endpoint, OpenAiRequest, ResponseFormat};
use crate::export::{self, Format, Options};

/// The answer to a request.
#[must_use]
pub fn answer(request: &OpenAiRequest, transcript: &Transcript) -> Response {
    match request.format {
        ResponseFormat::Json => json_answer(&json_body(request, transcript)),
        ResponseFormat::VerboseJson => json_answer(&verbose_body(request, transcript)),
        ResponseFormat::DiarizedJson => json_answer(&diarized_body(transcript)),
        ResponseFormat::Text => transcript
            .text
            .trim()
            .to_owned()
            .with_content_type("text/plain; charset=utf-8")
            .into_response(),
        ResponseFormat::Srt => subtitles(Format::Srt, transcript),
        ResponseFormat::Vtt => subtitles(Format::Vtt, transcript),
    }
}

fn json_answer(body: &Value) -> Response {
    poem::web::Json(body).into_response()
}

/// A file of subtitles, to be saved by browsers.
fn subtitles(format: Format, transcript: &Transcript) -> Response {
    let text = export::render(format, Some(transcript), Options::default());
    let mut response = text
        .with_content_type(format.content_type())
        .into_response();
    let name = format!("attachment; filename=\"transcript.{}\"", format.extension());
    if let Ok(value) = HeaderValue::from_str(&name) {
        response
            .headers_mut()
            .insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

fn json_body(request: &OpenAiRequest, transcript: &Transcript) -> Value {
    let mut body = json!({"text": transcript.text.trim(), "usage": usage(transcript)});
    if request.logprobs {
        body["logprobs"] = logprobs(transcript);
    }
    body
}

fn verbose_body(request: &OpenAiRequest, transcript: &Transcript) -> Value {
    let translated = request.endpoint == Endpoint::Translations;
    let segments: Vec<Value> = transcript
        .segments
        .iter()
        .enumerate()
        .map(|(id, segment)| {
            json!({
                "id": id, "seek": 0, "start": segment.start, "end": segment.end, "text": segment.text,
                "tokens": segment.tokens.as_deref().unwrap_or_default(),
                "temperature": segment.temperature.unwrap_or(0.0),
                "avg_logprob": segment.avg_logprob.unwrap_or(-0.5),
                "compression_ratio": segment.compression_ratio.unwrap_or(1.0),
                "no_speech_prob": segment.no_speech_prob.unwrap_or(0.02),
            })
        })
        .collect();
    let words: Option<Vec<Value>> = request.words.then(|| {
        words_of(transcript)
            .map(|word| json!({"word": word.text, "start": word.start, "end": word.end}))
            .collect()
    });
    let mut body = json!({
        "task": if translated { "translate" } else { "transcribe" },
        "language": if translated { "en" } else { transcript.metadata.language.as_str() },
        "duration": transcript.metadata.audio_duration,
        "text": transcript.text.trim(),
        "words": words,
        "usage": usage(transcript),
    });
    if request.segments {
        body["segments"] = segments.into();
    }
    body
}

fn diarized_body(transcript: &Transcript) -> Value {
    let segments: Vec<Value> = (0..transcript.segments.len())
        .map(|index| diarized_segment(transcript, index))
        .collect();
    json!({
        "task": "transcribe",
        "duration": transcript.metadata.audio_duration,
        "text": transcript.text.trim(),
        "segments": segments,
        "speakers": transcript.speakers,
        "usage": usage(transcript),
    })
}

/// One segment of a diarized answer, which is also an event of a diarized stream.
#[must_use]
pub fn diarized_segment(transcript: &Transcript, index: usize) -> Value {
    let segment = &transcript.segments[index];
    json!({
        "type": "transcript.text.segment",
        "id": segment.id,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "speaker": speaker(transcript, segment.speaker.as_deref()),
    })
}

/// Speakers are called by their known names, or else A, B, … in order of first speech; all is A without diarization.
fn speaker(transcript: &Transcript, id: Option<&str>) -> String {
    let position = transcript
        .speakers
        .iter()
        .position(|speaker| Some(speaker.id.as_str()) == id);
    if let Some(label) = position.and_then(|at| transcript.speakers[at].label.clone()) {
        return label;
    }
    let position = position.unwrap_or(0);
    match u8::try_from(position) {
        Ok(letter) if letter < 26 => char::from(b'A' + letter).to_string(),
        _ => format!("S{}", position + 1),
    }
}

/// The text cut into tokens with a log-probability each, that of a word. Put together they are the text: each has what
/// stands before its word, and the last what stands after.
#[must_use]
pub fn logprobs(transcript: &Transcript) -> Value {
    let text = transcript.text.trim();
    let mut tokens: Vec<(&str, f64)> = Vec::new();
    let mut done = 0;
    for word in words_of(transcript).filter(|word| !word.text.is_empty()) {
        let (Some(confidence), Some(at)) = (word.confidence, text[done..].find(&word.text)) else {
            continue;
        };
        let end = done + at + word.text.len();
        let logprob = confidence.max(f64::MIN_POSITIVE).ln().min(0.0);
        tokens.push((&text[done..end], logprob));
        done = end;
    }
    if let Some(last) = tokens.last_mut() {
        last.0 = &text[done - last.0.len()..];
    }
    tokens
        .into_iter()
        .map(|(token, logprob)| json!({"token": token, "bytes": token.as_bytes(), "logprob": logprob}))
        .collect()
}

fn words_of(transcript: &Transcript) -> impl Iterator<Item = &Word> {
    transcript
        .segments
        .iter()
        .flat_map(|segment| segment.words.as_deref().unwrap_or_default())
}

/// Billing stands in for the length of the audio; `audio_seconds` is the same for older clients.
fn usage(transcript: &Transcript) -> Value {
    let seconds = transcript.metadata.audio_duration;
    json!({"type": "duration", "seconds": seconds.ceil() as u64, "audio_seconds": seconds})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::export::samples::transcript;
    use crate::form::Fields;
    use crate::openai::request;

    fn asked(pairs: &[(&str, &str)]) -> OpenAiRequest {
        let mut fields = Fields::default();
        for (name, text) in pairs {
            fields.push((*name).to_owned(), (*text).to_owned());
        }
        request::read(Endpoint::Transcriptions, &fields).unwrap()
    }

    #[test]
    fn duration_and_usage_are_those_of_the_audio() {
        let mut sample = transcript(&[(0.0, 1.5, "Hello there.", None)]);
        sample.text = " Hello there. ".to_owned();
        let request = asked(&[("model", "whisper-1"), ("response_format", "verbose_json")]);
        let body = verbose_body(&request, &sample);
        assert_eq!(body["duration"], 12.5);
        assert_eq!(
            body["usage"],
            json!({"type": "duration", "seconds": 13, "audio_seconds": 12.5})
        );
        assert_eq!(body["text"], "Hello there.");
        assert_eq!(body["words"], Value::Null);
        assert_eq!(body["segments"][0]["avg_logprob"], -0.5);
        assert_eq!(body["segments"][0]["tokens"], json!([]));
    }

    #[test]
    fn words_that_were_asked_for_and_are_missing_give_an_empty_list() {
        let sample = transcript(&[(0.0, 1.5, "Hello there.", None)]);
        let request = asked(&[
            ("model", "whisper-1"),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
        ]);
        let body = verbose_body(&request, &sample);
        assert_eq!(body["words"], json!([]));
        assert!(body.get("segments").is_none(), "only words were asked for");
    }

    #[test]
    fn words_come_from_all_segments_in_order() {
        let mut sample = transcript(&[(0.0, 1.0, "Hello", None), (1.0, 2.0, "there", None)]);
        for (segment, text) in sample.segments.iter_mut().zip(["Hello", "there"]) {
            segment.words = Some(vec![Word {
                text: text.to_owned(),
                start: segment.start,
                end: segment.end,
                confidence: Some(0.5),
                ..Word::default()
            }]);
        }
        let request = asked(&[
            ("model", "gpt-4o-transcribe"),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
        ]);
        let body = verbose_body(&request, &sample);
        assert_eq!(
            body["words"][1],
            json!({"word": "there", "start": 1.0, "end": 2.0})
        );
    }

    #[test]
    fn the_tokens_of_log_probabilities_make_up_the_text() {
        let mut sample = transcript(&[(0.0, 1.0, "Hello,", None), (1.0, 2.0, "dear Bea!", None)]);
        sample.text = " Hello, dear Bea! ".to_owned();
        let word = |text: &str, confidence| Word {
            text: text.to_owned(),
            confidence,
            ..Word::default()
        };
        sample.segments[0].words = Some(vec![word("Hello", Some(0.5))]);
        sample.segments[1].words = Some(vec![
            word("dear", None),
            word("elsewhere", Some(0.5)),
            word("Bea", Some(1.0)),
        ]);
        let tokens = logprobs(&sample);
        assert_eq!(
            tokens,
            json!([
                {"token": "Hello", "bytes": b"Hello", "logprob": 0.5f64.ln()},
                {"token": ", dear Bea!", "bytes": b", dear Bea!", "logprob": 0.0},
            ])
        );
        assert_eq!(logprobs(&transcript(&[])), json!([]));
    }

    #[test]
    fn speakers_are_letters_or_their_known_names() {
        let sample = transcript(&[
            (0.0, 1.0, "Hi.", Some("SPEAKER_00")),
            (1.0, 2.0, "Hello.", Some("SPEAKER_01")),
        ]);
        let body = diarized_body(&sample);
        assert_eq!(body["segments"][0]["speaker"], "A");
        assert_eq!(body["segments"][1]["speaker"], "Bea");
        assert_eq!(body["segments"][0]["type"], "transcript.text.segment");
    }
}
