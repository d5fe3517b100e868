//! The transcript: what a job gives its user, and the JSON that exports and dialects are made from.
//!
//! Every key is always present (null when absent), in the order of the public contract.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::JobId;

/// A whole transcript, version `1.0`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// The job it came of.
    pub job_id: JobId,
    /// Version of this layout.
    pub version: String,
    /// Facts about audio and processing.
    pub metadata: TranscriptMetadata,
    /// All the text.
    pub text: String,
    /// Speakers in order of first speech; empty without speaker detection.
    pub speakers: Vec<Speaker>,
    /// Segments in order of start.
    pub segments: Vec<TranscriptSegment>,
    /// Who speaks when, as voices were told apart: the one list in which speakers may overlap. Left out when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<SpeakerTurn>,
    /// Paragraphs; empty until a refining stage fills them.
    pub paragraphs: Vec<serde_json::Value>,
    /// Summary; null until a refining stage fills it.
    pub summary: Option<String>,
    /// Text with personal information replaced.
    pub redacted_text: Option<String>,
    /// Personal information found.
    pub pii_entities: Option<Vec<serde_json::Value>>,
    /// How it was found.
    pub pii_metadata: Option<serde_json::Value>,
}

/// Facts about audio and processing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TranscriptMetadata {
    /// Length of the original in seconds.
    pub audio_duration: f64,
    /// Channels of the original.
    pub audio_channels: u16,
    /// Samples a second of the original.
    pub sample_rate: u32,
    /// Language (ISO 639-1).
    pub language: String,
    /// Probability of that language, three decimals.
    pub language_confidence: Option<f64>,
    /// `requested` or `detected`.
    pub language_source: Option<String>,
    /// Languages heard.
    pub languages: Option<Vec<DetectedLanguage>>,
    /// Words carry times.
    pub word_timestamps: bool,
    /// Word times were asked for.
    pub word_timestamps_requested: bool,
    /// `none`, `diarize` or `per_channel`.
    pub speaker_detection: String,
    /// Speakers found.
    pub speaker_count: u32,
    /// When the job was submitted.
    pub created_at: DateTime<Utc>,
    /// When the transcript was assembled.
    pub completed_at: DateTime<Utc>,
    /// Stages that ran, in order.
    pub pipeline_stages: Vec<String>,
    /// What went less well than asked for.
    pub pipeline_warnings: Vec<String>,
}

/// A language with its probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectedLanguage {
    /// ISO 639-1 code.
    pub code: String,
    /// Probability 0–1.
    pub confidence: Option<f64>,
    /// The language of most of the text.
    pub is_primary: bool,
}

/// A speaker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speaker {
    /// `SPEAKER_00` …
    pub id: String,
    /// Name given by the user.
    pub label: Option<String>,
    /// Channel, for per-channel jobs.
    pub channel: Option<u16>,
}

/// A stretch of audio in which one speaker is the main one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpeakerTurn {
    /// `SPEAKER_00` …
    pub speaker: String,
    /// Start in seconds.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
    /// How sure the model is of the speaker, 0–1.
    pub confidence: Option<f64>,
    /// Others who speak at the same time.
    pub overlapping_speakers: Vec<String>,
}

/// A segment as an engine gives it: times in seconds, text, and honest decoder figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Start in seconds.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
    /// Text, trimmed.
    pub text: String,
    /// Words with times; `None` when not asked for or not available.
    pub words: Option<Vec<Word>>,
    /// Token ids of the model's vocabulary.
    pub tokens: Option<Vec<i64>>,
    /// Sampling temperature that was used.
    pub temperature: Option<f64>,
    /// Probability of the segment, 0–1.
    pub confidence: Option<f64>,
    /// Mean log-probability of its tokens.
    pub avg_logprob: Option<f64>,
    /// Length of the text over its length compressed; high means repetition.
    pub compression_ratio: Option<f64>,
    /// Probability that there is no speech, 0–1.
    pub no_speech_prob: Option<f64>,
    /// Language of the segment, when it differs or is known per segment.
    pub language: Option<String>,
}

/// A word with its time in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The word with its punctuation, without spaces around it.
    pub text: String,
    /// Start in seconds.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
    /// Probability 0–1.
    pub confidence: Option<f64>,
    /// Characters with times, where the aligner gives them.
    pub characters: Option<Vec<serde_json::Value>>,
    /// Phonemes with times, where the aligner gives them.
    pub phonemes: Option<Vec<serde_json::Value>>,
    /// How the times were made: `attention`, `ctc`, `tdt` …
    pub alignment_method: Option<String>,
    /// Language of the word, where it differs.
    pub language: Option<String>,
    /// Speaker of the word.
    pub speaker: Option<String>,
    /// Channel of the word.
    pub channel: Option<u16>,
}

/// A segment in a transcript.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TranscriptSegment {
    /// `seg_000` …
    pub id: String,
    /// Start in seconds.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
    /// Text, trimmed.
    pub text: String,
    /// Text with personal information replaced.
    pub redacted_text: Option<String>,
    /// Speaker id.
    pub speaker: Option<String>,
    /// Language of the segment.
    pub language: Option<String>,
    /// Words with times.
    pub words: Option<Vec<Word>>,
    /// Token ids of the model's vocabulary.
    pub tokens: Option<Vec<i64>>,
    /// Sampling temperature that was used.
    pub temperature: Option<f64>,
    /// Probability of the segment, 0–1.
    pub confidence: Option<f64>,
    /// Mean log-probability of its tokens.
    pub avg_logprob: Option<f64>,
    /// Length of the text over its length compressed.
    pub compression_ratio: Option<f64>,
    /// Probability that there is no speech, 0–1.
    pub no_speech_prob: Option<f64>,
    /// Probability of the speaker, 0–1.
    pub speaker_confidence: Option<f64>,
    /// Emotion; null until a detecting stage fills it.
    pub emotion: Option<String>,
    /// Probability of the emotion.
    pub emotion_confidence: Option<f64>,
    /// Sound events; empty until a detecting stage fills them.
    pub events: Vec<serde_json::Value>,
}

/// Counts shown with a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptStats {
    /// Words, split at white space.
    pub word_count: i32,
    /// Segments.
    pub segment_count: i32,
    /// Speakers.
    pub speaker_count: i32,
    /// Characters of the trimmed text.
    pub character_count: i32,
    /// Language, when there is text.
    pub language_code: Option<String>,
}

/// Languages written without spaces between words.
const UNSPACED: [&str; 7] = ["zh", "yue", "ja", "th", "lo", "my", "km"];

/// What stands between two texts of a language (ISO 639-1): a space, or nothing.
#[must_use]
pub fn word_space(language: &str) -> &'static str {
    if UNSPACED.contains(&language) {
        ""
    } else {
        " "
    }
}

impl Transcript {
    /// Counts words, segments, speakers and characters.
    #[must_use]
    pub fn stats(&self) -> TranscriptStats {
        let text = self.text.trim();
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        TranscriptStats {
            word_count: count(text.split_whitespace().count()),
            segment_count: count(self.segments.len()),
            speaker_count: count(self.speakers.len()),
            character_count: count(text.chars().count()),
            language_code: (!text.is_empty()).then(|| self.metadata.language.clone()),
        }
    }
}
