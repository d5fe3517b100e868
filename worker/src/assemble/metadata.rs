//! The facts that stand at the head of a transcript.

use dalston_schema::job::TimestampGranularity;
use dalston_schema::task::TranscribeResponse;
use dalston_schema::transcript::{
    DetectedLanguage, Speaker, TranscriptMetadata, TranscriptSegment,
};

use super::Parts;
use crate::times::milliseconds;

/// The language of most of the text; a silent second channel does not decide.
pub fn language(parts: &Parts<'_>) -> String {
    primary(parts).map_or_else(
        || parts.parameters.language.clone().unwrap_or_default(),
        |transcription| transcription.language.clone(),
    )
}

/// The head of the transcript.
pub fn metadata(
    parts: &Parts<'_>,
    language: String,
    segments: &[TranscriptSegment],
    speakers: &[Speaker],
    pipeline_warnings: Vec<String>,
) -> TranscriptMetadata {
    let primary = primary(parts);
    let mut stages = parts.stages.clone();
    stages.sort_unstable();
    stages.dedup();
    TranscriptMetadata {
        audio_duration: milliseconds(parts.prepare.source.duration),
        audio_channels: parts.prepare.source.channels,
        sample_rate: parts.prepare.source.sample_rate,
        language,
        language_confidence: primary
            .and_then(|transcription| transcription.language_confidence)
            .map(milliseconds),
        language_source: primary
            .map(|transcription| transcription.language_source.clone())
            .filter(|source| !source.is_empty()),
        languages: languages(parts, primary),
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

/// Of the transcriptions in the language with most text, the one that is surest of it.
fn primary<'a>(parts: &'a Parts<'_>) -> Option<&'a TranscribeResponse> {
    let all = || parts.transcriptions.iter().map(|(_, found)| found);
    let letters = |language: &str| -> usize {
        all()
            .filter(|transcription| transcription.language == language)
            .map(|transcription| transcription.text.len())
            .sum()
    };
    all().max_by(|a, b| {
        letters(&a.language)
            .cmp(&letters(&b.language))
            .then_with(|| a.text.is_empty().cmp(&b.text.is_empty()).reverse())
            .then_with(|| {
                let sure = |found: &TranscribeResponse| found.language_confidence.unwrap_or(0.0);
                sure(a).total_cmp(&sure(b))
            })
    })
}

/// The distinct languages that were detected, the primary one first; `None` when the language was given. Transcriptions
/// without text heard none, unless no other did.
fn languages(
    parts: &Parts<'_>,
    primary: Option<&TranscribeResponse>,
) -> Option<Vec<DetectedLanguage>> {
    let mut found: Vec<DetectedLanguage> = Vec::new();
    let others = parts
        .transcriptions
        .iter()
        .map(|(_, transcription)| transcription)
        .filter(|transcription| !transcription.text.is_empty());
    for transcription in primary.into_iter().chain(others) {
        let detected =
            transcription.language_source == "detected" && !transcription.language.is_empty();
        let is_new = found
            .iter()
            .all(|language| language.code != transcription.language);
        if detected && is_new {
            found.push(DetectedLanguage {
                code: transcription.language.clone(),
                confidence: transcription.language_confidence.map(milliseconds),
                is_primary: found.is_empty(),
            });
        }
    }
    (!found.is_empty()).then_some(found)
}
