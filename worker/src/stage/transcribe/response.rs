//! From what the model said to what the stage answers: plain text, honest figures, words only when asked for.

use dalston_engines::Transcription;
use dalston_schema::task::{PreparedAudio, TranscribeRequest, TranscribeResponse};
use dalston_schema::transcript::{Segment, Word};

use crate::stage::TaskContext;
use crate::times::milliseconds;

/// Language of audio without speech, when none was asked for (ISO 639-2 "undetermined").
const NO_LANGUAGE: &str = "und";

/// What the stage answers to a transcription.
pub fn response(
    context: &TaskContext<'_>,
    request: &TranscribeRequest,
    audio: &PreparedAudio,
    transcription: Transcription,
) -> TranscribeResponse {
    let method = alignment_method(context);
    let segments: Vec<Segment> = transcription
        .segments
        .iter()
        .map(|found| segment(found, request.word_timestamps, method.as_deref()))
        .filter(|segment| !segment.text.is_empty())
        .collect();
    let has_words = segments.iter().any(|segment| segment.words.is_some());
    let mut warnings = transcription.warnings;
    if request.word_timestamps && !has_words && !segments.is_empty() && warnings.is_empty() {
        warnings.push(format!(
            "the model {} gives no word times; segments have theirs",
            context.task.model
        ));
    }
    TranscribeResponse {
        text: clean(&transcription.text),
        segments,
        language: transcription.language,
        language_confidence: transcription.language_probability.map(plain),
        language_source: language_source(request, transcription.language_probability.is_some()),
        engine: context.task.engine.clone(),
        model: context.task.model.clone(),
        device: context.device(),
        alignment_method: method.filter(|_| has_words),
        channel: audio.channel,
        chunk: request.chunk,
        warnings,
        ..TranscribeResponse::default()
    }
}

/// What the stage answers when nobody speaks.
pub fn without_speech(
    context: &TaskContext<'_>,
    request: &TranscribeRequest,
    audio: &PreparedAudio,
) -> TranscribeResponse {
    let language = request.language.as_deref().unwrap_or(NO_LANGUAGE);
    TranscribeResponse {
        language: language.to_owned(),
        language_source: language_source(request, false),
        engine: context.task.engine.clone(),
        model: context.task.model.clone(),
        device: context.device(),
        channel: audio.channel,
        chunk: request.chunk,
        ..TranscribeResponse::default()
    }
}

/// Who said which language it is: nobody, when the model knows one only or there was nothing to hear.
fn language_source(request: &TranscribeRequest, detected: bool) -> String {
    match &request.language {
        Some(_) => "requested",
        None if detected => "detected",
        None => "",
    }
    .to_owned()
}

/// How the task's model times words.
fn alignment_method(context: &TaskContext<'_>) -> Option<String> {
    let key = context.model_key();
    let offer = context.environment.offer.borrow();
    let description = offer.models.get(&key)?.description.as_ref()?;
    description.alignment_method.map(str::to_owned)
}

fn segment(found: &dalston_engines::Segment, with_words: bool, method: Option<&str>) -> Segment {
    let words: Vec<Word> = found
        .words
        .iter()
        .map(|found| word(found, method))
        .collect();
    Segment {
        start: milliseconds(found.start),
        end: milliseconds(found.end),
        text: clean(&found.text),
        words: (with_words && !words.is_empty()).then_some(words),
        tokens: Some(found.tokens.iter().map(|&token| token.into()).collect()),
        temperature: Some(plain(found.temperature)),
        confidence: confidence(&found.token_logprobs),
        avg_logprob: Some(plain(found.avg_logprob)),
        compression_ratio: Some(plain(found.compression_ratio)),
        no_speech_prob: found.no_speech_prob.map(plain),
        language: None,
    }
}

/// A word as transcripts have it.
pub fn word(found: &dalston_engines::Word, method: Option<&str>) -> Word {
    Word {
        text: clean(&found.text),
        start: milliseconds(found.start),
        end: milliseconds(found.end),
        confidence: Some(plain(found.probability)),
        alignment_method: method.map(str::to_owned),
        ..Word::default()
    }
}

/// Text without spaces around it, and without NUL characters, which PostgreSQL does not store.
fn clean(text: &str) -> String {
    text.trim().replace('\0', "")
}

/// The geometric mean of the tokens' probabilities, 0–1; `None` without tokens.
fn confidence(token_logprobs: &[f32]) -> Option<f64> {
    if token_logprobs.is_empty() {
        return None;
    }
    let sum: f64 = token_logprobs.iter().map(|&value| f64::from(value)).sum();
    let mean = sum / token_logprobs.len() as f64;
    Some(round(mean.exp().clamp(0.0, 1.0)))
}

/// A single-precision figure without the noise that widening adds.
pub fn plain(value: f32) -> f64 {
    round(f64::from(value))
}

fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_is_the_mean_probability_of_the_tokens() {
        assert_eq!(confidence(&[]), None);
        assert_eq!(confidence(&[0.5_f32.ln(), 0.5_f32.ln()]), Some(0.5));
        assert_eq!(confidence(&[0.0]), Some(1.0));
    }

    #[test]
    fn words_appear_only_when_asked_for_and_lose_their_leading_space() {
        let found = dalston_engines::Segment {
            start: 0.0,
            end: 1.0,
            text: " Hello.".into(),
            tokens: vec![1],
            token_logprobs: vec![-0.1],
            words: vec![dalston_engines::Word {
                start: 0.1,
                end: 0.9,
                text: " Hello.".into(),
                probability: 0.6,
            }],
            avg_logprob: -0.1,
            no_speech_prob: Some(0.01),
            compression_ratio: 0.9,
            temperature: 0.2,
        };
        assert_eq!(segment(&found, false, None).words, None);
        let with_words = segment(&found, true, Some("attention"));
        assert_eq!(with_words.text, "Hello.");
        assert_eq!(with_words.temperature, Some(0.2));
        let words = with_words.words.unwrap_or_default();
        assert_eq!(words[0].text, "Hello.");
        assert_eq!(words[0].confidence, Some(0.6));
        assert_eq!(words[0].alignment_method.as_deref(), Some("attention"));
    }
}
