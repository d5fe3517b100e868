//! Transcripts as files: `srt`, `vtt`, `txt` and `json`. Pure: a transcript and options in, text out.
//!
//! Times are rounded to milliseconds, speakers show by label or else by id, and a segment too long for one cue becomes
//! several, so that no text is lost.

pub mod json;
pub mod srt;
pub mod txt;
pub mod vtt;

mod cue;

use dalston_schema::Transcript;
use dalston_schema::transcript::TranscriptSegment;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// SubRip subtitles.
    Srt,
    /// WebVTT subtitles, with voice tags.
    Vtt,
    /// Plain text.
    Txt,
    /// The transcript itself.
    Json,
}

impl Format {
    /// Reads a format's name, in any case; `webvtt` means `vtt`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "srt" => Self::Srt,
            "vtt" | "webvtt" => Self::Vtt,
            "txt" => Self::Txt,
            "json" => Self::Json,
            _ => return None,
        })
    }

    /// The extension of the file.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Srt => "srt",
            Self::Vtt => "vtt",
            Self::Txt => "txt",
            Self::Json => "json",
        }
    }

    /// The `Content-Type` of the file.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Srt | Self::Txt => "text/plain; charset=utf-8",
            Self::Vtt => "text/vtt; charset=utf-8",
            Self::Json => "application/json; charset=utf-8",
        }
    }
}

/// How an export looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Write who speaks, where known.
    pub include_speakers: bool,
    /// Longest line, in characters.
    pub max_line_length: usize,
    /// Most lines in one cue.
    pub max_lines: usize,
}

impl Default for Options {
    /// Speakers, 42 characters, 2 lines.
    fn default() -> Self {
        Self {
            include_speakers: true,
            max_line_length: 42,
            max_lines: 2,
        }
    }
}

/// Writes a transcript as a file; a missing transcript gives the format's empty file.
#[must_use]
pub fn render(format: Format, transcript: Option<&Transcript>, options: Options) -> String {
    match format {
        Format::Srt => srt::render(transcript, options),
        Format::Vtt => vtt::render(transcript, options),
        Format::Txt => txt::render(transcript, options),
        Format::Json => json::render(transcript),
    }
}

/// Who speaks in a segment: the label the user gave, or else the id.
fn speaker_of<'a>(transcript: &'a Transcript, segment: &'a TranscriptSegment) -> Option<&'a str> {
    let id = segment.speaker.as_deref()?;
    let speaker = transcript.speakers.iter().find(|speaker| speaker.id == id);
    Some(
        speaker
            .and_then(|speaker| speaker.label.as_deref())
            .filter(|label| !label.is_empty())
            .unwrap_or(id),
    )
}

/// Hours, minutes, seconds and milliseconds of a time in seconds, rounded.
fn clock(seconds: f64) -> (u64, u64, u64, u64) {
    let milliseconds = (seconds.max(0.0) * 1000.0).round() as u64;
    (
        milliseconds / 3_600_000,
        milliseconds / 60_000 % 60,
        milliseconds / 1000 % 60,
        milliseconds % 1000,
    )
}

#[cfg(test)]
pub(crate) mod samples {
    //! Transcripts for the tests of the formats.
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use dalston_schema::Transcript;
    use serde_json::{Value, json};

    /// A transcript with these segments: start, end, text, speaker.
    pub fn transcript(segments: &[(f64, f64, &str, Option<&str>)]) -> Transcript {
        let segments: Vec<Value> = segments
            .iter()
            .enumerate()
            .map(|(index, (start, end, text, speaker))| {
                json!({
                    "id": format!("seg_{index:03}"), "start": start, "end": end, "text": text,
                    "redacted_text": null, "speaker": speaker, "language": null, "words": null, "tokens": null,
                    "temperature": null, "confidence": null, "avg_logprob": null, "compression_ratio": null,
                    "no_speech_prob": null, "speaker_confidence": null, "emotion": null,
                    "emotion_confidence": null, "events": [],
                })
            })
            .collect();
        serde_json::from_value(json!({
            "job_id": "01890000-0000-7000-8000-000000000001", "version": "1.0",
            "metadata": {
                "audio_duration": 12.5, "audio_channels": 1, "sample_rate": 16000, "language": "en",
                "language_confidence": 0.987, "language_source": "detected", "languages": null,
                "word_timestamps": false, "word_timestamps_requested": false, "speaker_detection": "none",
                "speaker_count": 2, "created_at": "2026-01-02T03:04:05Z", "completed_at": "2026-01-02T03:04:06Z",
                "pipeline_stages": ["prepare", "transcribe", "merge"], "pipeline_warnings": [],
            },
            "text": "", "segments": segments,
            "speakers": [
                {"id": "SPEAKER_00", "label": null, "channel": null},
                {"id": "SPEAKER_01", "label": "Bea", "channel": null},
            ],
            "paragraphs": [], "summary": null, "redacted_text": null, "pii_entities": null, "pii_metadata": null,
        }))
        .unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_to_milliseconds() {
        for (seconds, expected) in [
            (1.2, (0, 0, 1, 200)),
            (0.0, (0, 0, 0, 0)),
            (59.9996, (0, 1, 0, 0)),
            (3661.0015, (1, 1, 1, 2)),
            (-0.5, (0, 0, 0, 0)),
            (36_000.25, (10, 0, 0, 250)),
        ] {
            assert_eq!(clock(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn format_names_are_read_in_any_case() {
        assert_eq!(Format::parse("WebVTT"), Some(Format::Vtt));
        assert_eq!(Format::parse("SRT"), Some(Format::Srt));
        assert_eq!(Format::parse("docx"), None);
    }

    #[test]
    fn a_missing_transcript_gives_an_empty_file() {
        let options = Options::default();
        assert_eq!(render(Format::Srt, None, options), "");
        assert_eq!(render(Format::Txt, None, options), "");
        assert_eq!(render(Format::Vtt, None, options), "WEBVTT\n");
        assert_eq!(render(Format::Json, None, options), "{}");
    }
}
