//! Segments, words and speakers as the API shows them, with every key always present.

use dalston_schema::transcript::{DetectedLanguage, Speaker, TranscriptSegment, Word};
use poem_openapi::Object;
use poem_openapi::types::Any;
use serde_json::Value;

/// A stretch of speech.
#[derive(Debug, Object)]
#[oai(rename = "Segment")]
pub struct SegmentObject {
    /// `seg_000` …
    id: String,
    /// Start in seconds.
    start: f64,
    /// End in seconds.
    end: f64,
    /// Text.
    text: String,
    /// Text with personal information replaced.
    redacted_text: Option<String>,
    /// Speaker id.
    speaker: Option<String>,
    /// Language of the segment (ISO 639-1).
    language: Option<String>,
    /// Words with times.
    words: Option<Vec<WordObject>>,
    /// Token ids of the model's vocabulary.
    tokens: Option<Vec<i64>>,
    /// Sampling temperature that was used.
    temperature: Option<f64>,
    /// Probability of the segment, 0–1.
    confidence: Option<f64>,
    /// Mean log-probability of its tokens.
    avg_logprob: Option<f64>,
    /// Length of the text over its length compressed; high means repetition.
    compression_ratio: Option<f64>,
    /// Probability that there is no speech, 0–1.
    no_speech_prob: Option<f64>,
    /// Probability of the speaker, 0–1.
    speaker_confidence: Option<f64>,
    /// Emotion.
    emotion: Option<String>,
    /// Probability of the emotion.
    emotion_confidence: Option<f64>,
    /// Sound events.
    events: Vec<Any<Value>>,
}

/// A word with its time.
#[derive(Debug, Object)]
#[oai(rename = "Word")]
pub struct WordObject {
    /// The word with its punctuation.
    text: String,
    /// Start in seconds.
    start: f64,
    /// End in seconds.
    end: f64,
    /// Probability 0–1.
    confidence: Option<f64>,
    /// Characters with times.
    characters: Option<Vec<Any<Value>>>,
    /// Phonemes with times.
    phonemes: Option<Vec<Any<Value>>>,
    /// How the times were made: `attention`, `ctc`, `tdt` …
    alignment_method: Option<String>,
    /// Language of the word, where it differs.
    language: Option<String>,
    /// Speaker of the word.
    speaker: Option<String>,
    /// Channel of the word.
    channel: Option<u16>,
}

/// A speaker.
#[derive(Debug, Object)]
#[oai(rename = "Speaker")]
pub struct SpeakerObject {
    /// `SPEAKER_00` …
    id: String,
    /// Name given by the user.
    label: Option<String>,
    /// Channel, for jobs transcribed per channel.
    channel: Option<u16>,
}

/// A language with its probability.
#[derive(Debug, Object)]
#[oai(rename = "DetectedLanguage")]
pub struct LanguageObject {
    /// ISO 639-1 code.
    code: String,
    /// Probability 0–1.
    confidence: Option<f64>,
    /// The language of most of the text.
    is_primary: bool,
}

impl From<TranscriptSegment> for SegmentObject {
    fn from(segment: TranscriptSegment) -> Self {
        Self {
            id: segment.id,
            start: segment.start,
            end: segment.end,
            text: segment.text,
            redacted_text: segment.redacted_text,
            speaker: segment.speaker,
            language: segment.language,
            words: segment
                .words
                .map(|words| words.into_iter().map(WordObject::from).collect()),
            tokens: segment.tokens,
            temperature: segment.temperature,
            confidence: segment.confidence,
            avg_logprob: segment.avg_logprob,
            compression_ratio: segment.compression_ratio,
            no_speech_prob: segment.no_speech_prob,
            speaker_confidence: segment.speaker_confidence,
            emotion: segment.emotion,
            emotion_confidence: segment.emotion_confidence,
            events: any(segment.events),
        }
    }
}

impl From<Word> for WordObject {
    fn from(word: Word) -> Self {
        Self {
            text: word.text,
            start: word.start,
            end: word.end,
            confidence: word.confidence,
            characters: word.characters.map(any),
            phonemes: word.phonemes.map(any),
            alignment_method: word.alignment_method,
            language: word.language,
            speaker: word.speaker,
            channel: word.channel,
        }
    }
}

impl From<Speaker> for SpeakerObject {
    fn from(speaker: Speaker) -> Self {
        Self {
            id: speaker.id,
            label: speaker.label,
            channel: speaker.channel,
        }
    }
}

impl From<DetectedLanguage> for LanguageObject {
    fn from(language: DetectedLanguage) -> Self {
        Self {
            code: language.code,
            confidence: language.confidence,
            is_primary: language.is_primary,
        }
    }
}

fn any(values: Vec<Value>) -> Vec<Any<Value>> {
    values.into_iter().map(Any).collect()
}
