//! Assembles a transcript from what the tasks of a job answered. Pure: the same parts give the same transcript, so a
//! retried `merge` changes nothing.
//!
//! One transcription is taken as it is; several (channels, or chunks of a long file) are interleaved by time. With
//! channels, each channel is a speaker.

use chrono::{DateTime, Utc};
use dalston_schema::JobId;
use dalston_schema::job::{JobParameters, TimestampGranularity};
use dalston_schema::task::{PrepareResponse, Stage, TranscribeResponse};
use dalston_schema::transcript::{
    DetectedLanguage, Segment, Speaker, Transcript, TranscriptMetadata, TranscriptSegment, Word,
};

use crate::coverage;

/// Version of the transcript's layout.
const VERSION: &str = "1.0";

/// Everything a transcript is made of.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// The job.
    pub job_id: JobId,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When the transcript is assembled.
    pub completed_at: DateTime<Utc>,
    /// What was asked for.
    pub parameters: &'a JobParameters,
    /// What `prepare` answered.
    pub prepare: &'a PrepareResponse,
    /// What the `transcribe` tasks answered, in any order.
    pub transcriptions: Vec<TranscribeResponse>,
    /// Stages that ran to their end, in any order, `merge` among them.
    pub stages: Vec<Stage>,
    /// Optional tasks that failed: name and error.
    pub skipped: Vec<(String, Option<String>)>,
}

/// Assembles the transcript. Every key of the contract is present; times are seconds with three decimals, inside the
/// audio, and no segment is empty.
#[must_use]
pub fn assemble(mut parts: Parts<'_>) -> Transcript {
    parts
        .transcriptions
        .sort_by_key(|transcription| transcription.channel);
    let duration = parts.prepare.source.duration;
    let mut segments: Vec<TranscriptSegment> = parts
        .transcriptions
        .iter()
        .flat_map(|transcription| {
            transcription
                .segments
                .iter()
                .map(move |segment| place(segment, transcription.channel, duration))
        })
        .filter(|segment| !segment.text.is_empty())
        .collect();
    segments.sort_by(|a, b| a.start.total_cmp(&b.start));
    for (index, segment) in segments.iter_mut().enumerate() {
        segment.id = format!("seg_{index:03}");
    }
    let text = match parts.transcriptions.as_slice() {
        [only] => only.text.trim().to_owned(),
        _ => join(&segments),
    };
    let speakers = speakers(&parts);
    let warnings = warnings(&parts, &segments);
    Transcript {
        job_id: parts.job_id,
        version: VERSION.to_owned(),
        metadata: metadata(&parts, &segments, &speakers, warnings),
        text,
        speakers,
        segments,
        turns: Vec::new(),
        paragraphs: Vec::new(),
        summary: None,
        redacted_text: None,
        pii_entities: None,
        pii_metadata: None,
    }
}

fn metadata(
    parts: &Parts<'_>,
    segments: &[TranscriptSegment],
    speakers: &[Speaker],
    pipeline_warnings: Vec<String>,
) -> TranscriptMetadata {
    // The language of most of the text; a silent second channel does not decide.
    let primary = parts
        .transcriptions
        .iter()
        .max_by_key(|transcription| transcription.text.len());
    let mut stages = parts.stages.clone();
    stages.sort_unstable();
    stages.dedup();
    TranscriptMetadata {
        audio_duration: milliseconds(parts.prepare.source.duration),
        audio_channels: parts.prepare.source.channels,
        sample_rate: parts.prepare.source.sample_rate,
        language: primary.map_or_else(
            || parts.parameters.language.clone().unwrap_or_default(),
            |transcription| transcription.language.clone(),
        ),
        language_confidence: primary
            .and_then(|transcription| transcription.language_confidence)
            .map(milliseconds),
        language_source: primary.map(|transcription| transcription.language_source.clone()),
        languages: languages(&parts.transcriptions, primary),
        word_timestamps: segments.iter().any(|segment| segment.words.is_some()),
        word_timestamps_requested: parts.parameters.timestamps == TimestampGranularity::Word,
        speaker_detection: parts.parameters.speaker_detection.as_str().to_owned(),
        speaker_count: u32::try_from(speakers.len()).unwrap_or(u32::MAX),
        created_at: parts.created_at,
        completed_at: parts.completed_at,
        pipeline_stages: stages
            .iter()
            .map(|stage| stage.as_str().to_owned())
            .collect(),
        pipeline_warnings,
    }
}

/// The distinct languages that were detected, the primary one first; `None` when the language was given.
fn languages(
    transcriptions: &[TranscribeResponse],
    primary: Option<&TranscribeResponse>,
) -> Option<Vec<DetectedLanguage>> {
    let mut found: Vec<DetectedLanguage> = Vec::new();
    let detected = |transcription: &&TranscribeResponse| {
        transcription.language_source == "detected" && !transcription.language.is_empty()
    };
    for transcription in primary.into_iter().chain(transcriptions).filter(detected) {
        if found
            .iter()
            .all(|language| language.code != transcription.language)
        {
            found.push(DetectedLanguage {
                code: transcription.language.clone(),
                confidence: transcription.language_confidence.map(milliseconds),
                is_primary: found.is_empty(),
            });
        }
    }
    (!found.is_empty()).then_some(found)
}

fn speakers(parts: &Parts<'_>) -> Vec<Speaker> {
    let mut channels: Vec<u16> = parts
        .transcriptions
        .iter()
        .filter_map(|transcription| transcription.channel)
        .collect();
    channels.dedup();
    channels
        .into_iter()
        .enumerate()
        .map(|(index, channel)| Speaker {
            id: speaker_id(channel),
            label: parts.parameters.known_speaker_names.get(index).cloned(),
            channel: Some(channel),
        })
        .collect()
}

fn speaker_id(channel: u16) -> String {
    format!("SPEAKER_{channel:02}")
}

/// What went less well than asked for: the planner's, the stages', the tasks left out, the speech left out.
fn warnings(parts: &Parts<'_>, segments: &[TranscriptSegment]) -> Vec<String> {
    let mut warnings = parts.parameters.planning_warnings.clone();
    warnings.extend(parts.prepare.warnings.iter().cloned());
    for transcription in &parts.transcriptions {
        let prefix = channel_prefix(transcription.channel);
        warnings.extend(
            transcription
                .warnings
                .iter()
                .map(|warning| format!("{prefix}{warning}")),
        );
    }
    for (name, error) in &parts.skipped {
        let why = error.as_deref().unwrap_or("no reason was recorded");
        warnings.push(format!("{name} failed and was left out: {why}"));
    }
    for track in &parts.prepare.channel_files {
        let covered: Vec<_> = segments
            .iter()
            .filter(|segment| {
                track.channel.is_none() || segment.speaker == track.channel.map(speaker_id)
            })
            .map(|segment| (segment.start, segment.end))
            .collect();
        if let Some(warning) = coverage::warning(&track.speech_regions, &covered) {
            warnings.push(format!("{}{warning}", channel_prefix(track.channel)));
        }
    }
    let mut seen = std::collections::HashSet::new();
    warnings.retain(|warning| seen.insert(warning.clone()));
    warnings
}

fn channel_prefix(channel: Option<u16>) -> String {
    channel.map_or_else(String::new, |channel| format!("ch{channel}: "))
}

/// One engine segment as the transcript shows it, still without its id.
fn place(segment: &Segment, channel: Option<u16>, duration: f64) -> TranscriptSegment {
    let speaker = channel.map(speaker_id);
    let (start, end) = clamp(segment.start, segment.end, duration);
    let words = segment.words.as_ref().map(|words| {
        words
            .iter()
            .map(|word| {
                let (start, end) = clamp(word.start, word.end, duration);
                Word {
                    text: word.text.trim().to_owned(),
                    start,
                    end,
                    speaker: speaker.clone().or_else(|| word.speaker.clone()),
                    channel: channel.or(word.channel),
                    ..word.clone()
                }
            })
            .filter(|word| !word.text.is_empty())
            .collect()
    });
    TranscriptSegment {
        id: String::new(),
        start,
        end,
        text: segment.text.trim().to_owned(),
        redacted_text: None,
        speaker,
        language: segment.language.clone(),
        words,
        tokens: segment.tokens.clone(),
        temperature: segment.temperature,
        confidence: segment.confidence,
        avg_logprob: segment.avg_logprob,
        compression_ratio: segment.compression_ratio,
        no_speech_prob: segment.no_speech_prob,
        speaker_confidence: None,
        emotion: None,
        emotion_confidence: None,
        events: Vec::new(),
    }
}

/// Brings times into the audio and to three decimals; an end before its start becomes the start.
fn clamp(start: f64, end: f64, duration: f64) -> (f64, f64) {
    let inside = |time: f64| {
        milliseconds(if time.is_finite() { time } else { 0.0 }.clamp(0.0, duration.max(0.0)))
    };
    let start = inside(start);
    (start, inside(end).max(start))
}

/// Rounds to three decimals.
fn milliseconds(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn join(segments: &[TranscriptSegment]) -> String {
    segments
        .iter()
        .map(|segment| segment.text.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests;
