//! Transcripts as files: `srt`, `vtt`, `txt`, `json`, `tsv`, `rttm` and `lrc`. Pure: a transcript and options in, text
//! out.
//!
//! Times are rounded to milliseconds, speakers show by label or else by id, and a segment too long for one cue becomes
//! several, so that no text is lost.

pub mod json;
pub mod lrc;
pub mod rttm;
pub mod srt;
pub mod tsv;
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
    /// Tab-separated values.
    Tsv,
    /// Speaker turns.
    Rttm,
    /// Timed lines for music players.
    Lrc,
}

impl Format {
    /// Every format, the usual ones first.
    pub const ALL: [Self; 7] = [
        Self::Srt,
        Self::Vtt,
        Self::Txt,
        Self::Json,
        Self::Tsv,
        Self::Rttm,
        Self::Lrc,
    ];

    /// Reads a format's name, in any case; `webvtt` means `vtt`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        if name == "webvtt" {
            return Some(Self::Vtt);
        }
        Self::ALL
            .into_iter()
            .find(|format| format.extension() == name)
    }

    /// The extension of the file.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Srt => "srt",
            Self::Vtt => "vtt",
            Self::Txt => "txt",
            Self::Json => "json",
            Self::Tsv => "tsv",
            Self::Rttm => "rttm",
            Self::Lrc => "lrc",
        }
    }

    /// The `Content-Type` of the file.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Srt | Self::Txt | Self::Rttm | Self::Lrc => "text/plain; charset=utf-8",
            Self::Tsv => "text/tab-separated-values; charset=utf-8",
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
        Format::Tsv => tsv::render(transcript, options),
        Format::Rttm => rttm::render(transcript),
        Format::Lrc => lrc::render(transcript, options),
    }
}

/// Who speaks in a segment, where known.
fn speaker_of(transcript: &Transcript, segment: &TranscriptSegment) -> Option<String> {
    let id = segment.speaker.as_deref()?;
    Some(name_of(transcript, id))
}

/// A speaker's label, or else the id; on one line.
fn name_of(transcript: &Transcript, id: &str) -> String {
    let speaker = transcript.speakers.iter().find(|speaker| speaker.id == id);
    let label = speaker.and_then(|speaker| speaker.label.as_deref());
    let name = label.map(one_line).filter(|label| !label.is_empty());
    name.unwrap_or_else(|| one_line(id))
}

/// Text without line breaks, tabs and double spaces.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A time in seconds as whole milliseconds, rounded.
fn milliseconds(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1000.0).round() as u64
}

/// A subtitle's start and end with this sign before the milliseconds. Readers refuse subtitles that take no time, so the
/// end is at least a millisecond later.
fn span(start: f64, end: f64, point: char) -> String {
    let start = milliseconds(start);
    let end = milliseconds(end).max(start + 1);
    format!("{} --> {}", clock(start, point), clock(end, point))
}

/// `HH:MM:SS` and milliseconds.
fn clock(milliseconds: u64, point: char) -> String {
    format!(
        "{:02}:{:02}:{:02}{point}{:03}",
        milliseconds / 3_600_000,
        milliseconds / 60_000 % 60,
        milliseconds / 1000 % 60,
        milliseconds % 1000
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
    fn times_are_rounded_to_milliseconds_and_take_at_least_one() {
        for (start, end, expected) in [
            (1.2, 2.0, "00:00:01,200 --> 00:00:02,000"),
            (59.9996, 3661.0015, "00:01:00,000 --> 01:01:01,002"),
            (-0.5, 36_000.25, "00:00:00,000 --> 10:00:00,250"),
            (5.0, 5.0, "00:00:05,000 --> 00:00:05,001"),
        ] {
            assert_eq!(span(start, end, ','), expected);
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
        for format in [Format::Tsv, Format::Rttm, Format::Lrc] {
            assert_eq!(render(format, None, options), "");
        }
    }
}
