//! The `transcribe` stage: prepared audio and its speech go to the model, segments come back.
//!
//! Audio of any length is decoded batched: the speech regions are packed into windows that are decoded side by side. A
//! prompt and a vocabulary stand in front of every window, so they hold for the whole file and do not cost the batching.
//! Audio without speech is not given to the model, which would hear words in noise.

use std::sync::Arc;

use dalston_engines::{
    Control, LongForm, SpeechRegion, Task, TranscribeOptions, TranscribeRequest as EngineRequest,
    Transcription, WavSource,
};
use dalston_schema::ArtifactKey;
use dalston_schema::db::tasks::Completion;
use dalston_schema::task::{PreparedAudio, TranscribeRequest, TranscribeResponse};
use dalston_schema::transcript::{Segment, Word};
use tokio::time::Instant;

use super::{TaskContext, answer, blocking, prepared};
use crate::coverage::Interval;
use crate::execute::record_realtime_factor;
use crate::failure::{StageError, StageResult};
use crate::load_engine;
use crate::model_pool::ModelKey;

/// Language of audio without speech, when none was asked for (ISO 639-2 "undetermined").
const NO_LANGUAGE: &str = "und";

pub async fn run(context: &TaskContext<'_>) -> StageResult<Completion> {
    let request: TranscribeRequest = context.request()?;
    let prepare = prepared(&context.finished().await?)?;
    let audio = prepare
        .channel_files
        .iter()
        .find(|file| file.channel == request.channel)
        .ok_or_else(|| {
            StageError::permanent(format!(
                "The audio has no channel {}.",
                request.channel.unwrap_or_default()
            ))
        })?;
    let started = Instant::now();
    let response = if context.task.engine == load_engine::NAME {
        sleep_through(context, &request, audio).await?
    } else {
        transcribe(context, &request, audio).await?
    };
    record_realtime_factor(
        context.task.stage,
        &context.task.model,
        request
            .chunk
            .map_or(audio.duration, |chunk| chunk.end - chunk.start),
        started.elapsed().as_secs_f64(),
    );
    answer(&response)
}

async fn sleep_through(
    context: &TaskContext<'_>,
    request: &TranscribeRequest,
    audio: &PreparedAudio,
) -> StageResult<TranscribeResponse> {
    let config = context.environment.config.load_engine.ok_or_else(|| {
        StageError::retryable("This worker does not run the load-test engine any more.")
    })?;
    let (meter, duration) = (context.progress, audio.duration);
    load_engine::transcribe(
        config,
        request,
        audio,
        context.task.attempt,
        context.stop,
        &|seconds| meter.report(seconds, duration),
    )
    .await
}

async fn transcribe(
    context: &TaskContext<'_>,
    request: &TranscribeRequest,
    audio: &PreparedAudio,
) -> StageResult<TranscribeResponse> {
    let environment = context.environment;
    let device = environment.runtime.device().as_str();
    let regions = speech_regions(request, audio);
    if regions.is_empty() {
        return Ok(without_speech(context, request, audio, device));
    }
    let key = ModelKey {
        engine: context.task.engine.clone(),
        model: context.task.model.clone(),
    };
    let model = tokio::select! {
        model = environment.models.acquire(&key) => model?,
        () = context.stop.stopped() => return Err(StageError::Stopped),
    };
    let transcriber = model.clone().into_transcriber().ok_or_else(|| {
        StageError::permanent(format!("The model {} is no transcriber.", key.model))
    })?;
    let path = context
        .scratch
        .fetch(
            &environment.storage,
            &ArtifactKey::from_stored(&audio.key),
            "prepared.wav",
        )
        .await?;
    let (meter, duration) = (context.progress.clone(), audio.duration);
    let control = Control {
        cancel: context.stop.flag().clone(),
        progress: Some(Arc::new(move |seconds| meter.report(seconds, duration))),
        ..Control::default()
    };
    let options = options(request, &regions);
    let transcription = blocking(move || {
        let audio = Arc::new(WavSource::open(&path)?);
        Ok(transcriber.transcribe(EngineRequest {
            audio,
            options,
            control,
            time_limit: None,
        })?)
    })
    .await?;
    context.progress.report(duration, duration);
    Ok(response(context, request, audio, device, transcription))
}

/// The speech this task is to transcribe: all of it, or what lies in its chunk.
fn speech_regions(request: &TranscribeRequest, audio: &PreparedAudio) -> Vec<Interval> {
    let Some(chunk) = request.chunk else {
        return audio.speech_regions.clone();
    };
    audio
        .speech_regions
        .iter()
        .map(|&(start, end)| (start.max(chunk.start), end.min(chunk.end)))
        .filter(|(start, end)| end > start)
        .collect()
}

fn options(request: &TranscribeRequest, regions: &[Interval]) -> TranscribeOptions {
    let defaults = TranscribeOptions::default();
    TranscribeOptions {
        language: request.language.clone(),
        task: if request.translate {
            Task::Translate
        } else {
            Task::Transcribe
        },
        beam_size: request.beam_size.max(1) as usize,
        temperatures: request
            .temperature
            .map_or(defaults.temperatures.clone(), |fixed| vec![fixed]),
        word_timestamps: request.word_timestamps,
        prompt: request.prompt.clone(),
        vocabulary: request.vocabulary.clone(),
        long_form: LongForm::Batched(
            regions
                .iter()
                .map(|&(start, end)| SpeechRegion { start, end })
                .collect(),
        ),
        ..defaults
    }
}

fn response(
    context: &TaskContext<'_>,
    request: &TranscribeRequest,
    audio: &PreparedAudio,
    device: &str,
    transcription: Transcription,
) -> TranscribeResponse {
    let segments: Vec<Segment> = transcription
        .segments
        .iter()
        .map(|found| segment(found, request.word_timestamps))
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
        language_source: language_source(request),
        engine: context.task.engine.clone(),
        model: context.task.model.clone(),
        device: device.to_owned(),
        alignment_method: has_words.then(|| "attention".to_owned()),
        channel: audio.channel,
        chunk: request.chunk,
        warnings,
        ..TranscribeResponse::default()
    }
}

fn without_speech(
    context: &TaskContext<'_>,
    request: &TranscribeRequest,
    audio: &PreparedAudio,
    device: &str,
) -> TranscribeResponse {
    let language = request.language.as_deref().unwrap_or(NO_LANGUAGE);
    TranscribeResponse {
        language: language.to_owned(),
        language_source: language_source(request),
        engine: context.task.engine.clone(),
        model: context.task.model.clone(),
        device: device.to_owned(),
        channel: audio.channel,
        chunk: request.chunk,
        ..TranscribeResponse::default()
    }
}

fn language_source(request: &TranscribeRequest) -> String {
    if request.language.is_some() {
        "requested"
    } else {
        "detected"
    }
    .to_owned()
}

fn segment(found: &dalston_engines::Segment, with_words: bool) -> Segment {
    let words: Vec<Word> = found.words.iter().map(word).collect();
    Segment {
        start: found.start,
        end: found.end,
        text: clean(&found.text),
        words: (with_words && !words.is_empty()).then_some(words),
        tokens: Some(found.tokens.iter().map(|&token| token.into()).collect()),
        temperature: Some(plain(found.temperature)),
        confidence: confidence(&found.token_logprobs),
        avg_logprob: Some(plain(found.avg_logprob)),
        compression_ratio: Some(plain(found.compression_ratio)),
        no_speech_prob: Some(plain(found.no_speech_prob)),
        language: None,
    }
}

fn word(found: &dalston_engines::Word) -> Word {
    Word {
        text: clean(&found.text),
        start: found.start,
        end: found.end,
        confidence: Some(plain(found.probability)),
        alignment_method: Some("attention".to_owned()),
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
fn plain(value: f32) -> f64 {
    round(f64::from(value))
}

fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use dalston_schema::task::Chunk;

    use super::*;
    use crate::coverage::total;

    fn audio(speech_regions: &[Interval]) -> PreparedAudio {
        PreparedAudio {
            key: "jobs/x/prepared.wav".into(),
            duration: 100.0,
            speech_regions: speech_regions.to_vec(),
            ..PreparedAudio::default()
        }
    }

    #[test]
    fn a_chunk_takes_the_speech_inside_it_and_nothing_else() {
        let request = TranscribeRequest {
            chunk: Some(Chunk {
                index: 1,
                start: 10.0,
                end: 20.0,
            }),
            ..TranscribeRequest::default()
        };
        let audio = audio(&[(0.0, 5.0), (8.0, 12.0), (15.0, 30.0), (40.0, 50.0)]);
        let regions = speech_regions(&request, &audio);
        assert_eq!(regions, [(10.0, 12.0), (15.0, 20.0)]);
        assert!((total(&regions) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn a_fixed_temperature_replaces_the_ladder_and_a_beam_is_at_least_one() {
        let request = TranscribeRequest {
            temperature: Some(0.3),
            beam_size: 0,
            translate: true,
            ..TranscribeRequest::default()
        };
        let fixed = options(&request, &[(0.0, 1.0)]);
        assert_eq!(fixed.temperatures, [0.3]);
        assert_eq!(fixed.beam_size, 1);
        assert_eq!(fixed.task, Task::Translate);
        let ladder = options(&TranscribeRequest::default(), &[]);
        assert_eq!(ladder.temperatures.len(), 6);
    }

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
            no_speech_prob: 0.01,
            compression_ratio: 0.9,
            temperature: 0.2,
        };
        assert_eq!(segment(&found, false).words, None);
        let with_words = segment(&found, true);
        assert_eq!(with_words.text, "Hello.");
        assert_eq!(with_words.temperature, Some(0.2));
        let words = with_words.words.unwrap_or_default();
        assert_eq!(words[0].text, "Hello.");
        assert_eq!(words[0].confidence, Some(0.6));
    }
}
