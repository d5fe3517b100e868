//! The `align` stage: the words of a transcription get their times from the audio. A language that the aligner does not
//! know leaves the transcription as it is, with a warning.

use std::sync::Arc;

use dalston_engines::align::{
    AlignRequest as EngineRequest, AlignSegment, AlignedSegment, Alignment,
};
use dalston_engines::{Control, WavSource};
use dalston_schema::Stage;
use dalston_schema::db::tasks::Completion;
use dalston_schema::task::{AlignRequest, AlignResponse, PreparedAudio, TranscribeResponse};
use dalston_schema::transcript::{Segment, Word};
use tokio::time::Instant;

use super::portion::Portion;
use super::transcribe::word;
use super::{TaskContext, answer, blocking, channel_file, prepared, response};
use crate::failure::{StageError, StageResult};
use crate::model_pool::ModelKey;
use crate::times::milliseconds;

/// Share of words without a time of their own from which a user should know.
const UNALIGNED_SHARE: f64 = 0.2;

pub async fn run(context: &TaskContext<'_>) -> StageResult<Completion> {
    let request: AlignRequest = context.request()?;
    let names = [Stage::Prepare.as_str(), &request.transcription];
    let finished = context.finished(Some(&names)).await?;
    let prepare = prepared(&finished)?;
    let audio = channel_file(&prepare, request.channel)?;
    let transcription: TranscribeResponse = finished
        .iter()
        .find(|task| task.name == request.transcription && task.response.is_some())
        .map(response)
        .ok_or_else(|| {
            StageError::permanent(format!(
                "The transcription {} of this job is gone.",
                request.transcription
            ))
        })??;
    let portion = Portion::whole(context.progress);
    answer(
        &align(
            context,
            &context.model_key(),
            &request,
            audio,
            &transcription,
            &portion,
        )
        .await?,
    )
}

/// Gives the words of a transcription their times with the model `key`.
///
/// # Errors
/// [`StageError::Stopped`], else why it failed.
pub async fn align(
    context: &TaskContext<'_>,
    key: &ModelKey,
    request: &AlignRequest,
    audio: &PreparedAudio,
    transcription: &TranscribeResponse,
    portion: &Portion,
) -> StageResult<AlignResponse> {
    let plain_answer = AlignResponse {
        transcription: request.transcription.clone(),
        segments: transcription.segments.clone(),
        language: transcription.language.clone(),
        granularity_achieved: "segment".to_owned(),
        engine: key.engine.clone(),
        model: key.model.clone(),
        device: context.device(),
        ..AlignResponse::default()
    };
    if transcription.segments.is_empty() {
        return Ok(plain_answer);
    }
    let started = Instant::now();
    let model = context.acquire(key).await?;
    let aligner = model
        .clone()
        .into_aligner()
        .ok_or_else(|| StageError::permanent(format!("The model {} aligns nothing.", key.model)))?;
    let language = request
        .language
        .clone()
        .unwrap_or_else(|| transcription.language.clone());
    if !aligner.languages().contains(&language) {
        let timed = transcription
            .segments
            .iter()
            .any(|segment| segment.words.is_some());
        let reason = format!(
            "words {}: {} aligns {}, and the language is {language}",
            if timed {
                "have the transcriber's times"
            } else {
                "have no times"
            },
            key.model,
            aligner.languages().join(", ")
        );
        return Ok(AlignResponse {
            skipped: true,
            skip_reason: Some(reason.clone()),
            // Each word says how it was timed.
            warnings: if timed { Vec::new() } else { vec![reason] },
            ..plain_answer
        });
    }
    let path = context.fetch_prepared(audio).await?;
    let segments = transcription
        .segments
        .iter()
        .map(|segment| AlignSegment {
            start: segment.start,
            end: segment.end,
            text: segment.text.clone(),
        })
        .collect();
    // A chunk's words lie in its part of the file; the engine counts from where the file begins.
    let (from, length) = request.chunk.map_or((0.0, audio.duration), |chunk| {
        (chunk.start, chunk.end - chunk.start)
    });
    let portion = portion.clone();
    let control = Control {
        cancel: context.stop.flag().clone(),
        progress: Some(Arc::new(move |seconds| {
            portion.report((seconds - from).max(0.0), length);
        })),
        ..Control::default()
    };
    let alignment = blocking(move || {
        Ok(aligner.align(EngineRequest {
            audio: Arc::new(WavSource::open(&path)?),
            language: Some(language),
            segments,
            control,
            time_limit: None,
        })?)
    })
    .await?;
    let seconds = started.elapsed().as_secs_f64();
    context
        .environment
        .measures
        .observe_speed(Stage::Align, &key.model, length, seconds);
    Ok(timed(plain_answer, &alignment, method(context, key)))
}

fn method(context: &TaskContext<'_>, key: &ModelKey) -> Option<String> {
    let offer = context.environment.offer.borrow();
    let description = offer.models.get(key)?.description.as_ref()?;
    description.alignment_method.map(str::to_owned)
}

/// The transcription with the times that were found.
fn timed(
    transcribed: AlignResponse,
    alignment: &Alignment,
    method: Option<String>,
) -> AlignResponse {
    let segments: Vec<Segment> = transcribed
        .segments
        .iter()
        .zip(&alignment.segments)
        .map(|(segment, aligned)| with_words(segment, aligned, method.as_deref()))
        .collect();
    let words: Vec<&Word> = segments
        .iter()
        .flat_map(|segment| segment.words.iter().flatten())
        .collect();
    let aligned: Vec<f64> = words
        .iter()
        .filter_map(|word| word.confidence)
        .filter(|confidence| *confidence > 0.0)
        .collect();
    let has_words = !words.is_empty();
    let unaligned_ratio = if has_words {
        alignment.unaligned as f64 / words.len() as f64
    } else {
        0.0
    };
    let mut warnings = alignment.warnings.clone();
    if unaligned_ratio > UNALIGNED_SHARE {
        warnings.push(format!(
            "{} of {} words could not be found in the audio; their times are estimates",
            alignment.unaligned,
            words.len()
        ));
    }
    AlignResponse {
        word_timestamps: has_words,
        alignment_confidence: (!aligned.is_empty())
            .then(|| aligned.iter().sum::<f64>() / aligned.len() as f64),
        unaligned_ratio,
        granularity_achieved: if has_words { "word" } else { "segment" }.to_owned(),
        alignment_method: method.filter(|_| has_words),
        segments,
        warnings,
        ..transcribed
    }
}

fn with_words(segment: &Segment, aligned: &AlignedSegment, method: Option<&str>) -> Segment {
    let words: Vec<Word> = aligned
        .words
        .iter()
        .map(|found| word(found, method))
        .filter(|word| !word.text.is_empty())
        .collect();
    if words.is_empty() {
        return segment.clone();
    }
    Segment {
        start: milliseconds(aligned.start),
        end: milliseconds(aligned.end.max(aligned.start)),
        words: Some(words),
        ..segment.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn found(text: &str, start: f64, end: f64, probability: f32) -> dalston_engines::Word {
        dalston_engines::Word {
            start,
            end,
            text: text.to_owned(),
            probability,
        }
    }

    #[test]
    fn words_get_times_and_segments_follow_them() {
        let segment = |start, end, text: &str| Segment {
            start,
            end,
            text: text.to_owned(),
            avg_logprob: Some(-0.2),
            ..Segment::default()
        };
        let transcribed = AlignResponse {
            segments: vec![segment(0.0, 4.0, "good morning"), segment(5.0, 6.0, "…")],
            ..AlignResponse::default()
        };
        let alignment = Alignment {
            segments: vec![
                AlignedSegment {
                    start: 1.0,
                    end: 2.5,
                    words: vec![
                        found("good", 1.0, 1.4, 0.8),
                        found(" morning", 1.5, 2.5, 0.0),
                    ],
                    score: 0.8,
                },
                AlignedSegment {
                    start: 5.0,
                    end: 6.0,
                    words: Vec::new(),
                    score: 0.0,
                },
            ],
            unaligned: 1,
            warnings: Vec::new(),
        };
        let response = timed(transcribed, &alignment, Some("phoneme_wav2vec".to_owned()));
        assert!(response.word_timestamps && !response.skipped);
        assert_eq!(response.granularity_achieved, "word");
        assert_eq!(
            response.alignment_method.as_deref(),
            Some("phoneme_wav2vec")
        );
        assert!((response.alignment_confidence.unwrap() - 0.8).abs() < 1e-6);
        assert!((response.unaligned_ratio - 0.5).abs() < 1e-9);
        assert!(response.warnings[0].contains("1 of 2 words"));
        let first = &response.segments[0];
        assert_eq!((first.start, first.end), (1.0, 2.5));
        assert_eq!(first.words.as_ref().unwrap()[1].text, "morning");
        assert_eq!(first.avg_logprob, Some(-0.2));
        assert_eq!(
            (
                response.segments[1].start,
                response.segments[1].words.clone()
            ),
            (5.0, None)
        );
    }
}
