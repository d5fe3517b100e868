//! The `transcribe` stage: prepared audio and its speech go to the model, segments come back.
//!
//! Audio of any length is decoded batched: the speech regions are packed into windows that are decoded side by side. A
//! prompt and a vocabulary stand in front of every window, so they hold for the whole file and do not cost the batching.
//! Audio without speech is not given to the model, which would hear words in noise.
//!
//! A chunk of a long file decodes the windows that begin in it, packed over the whole file: all chunks together give
//! what one task would. In the integrated mode the same task runs the stages that follow as well.

mod integrated;
mod response;

pub use response::{plain, word};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dalston_engines::{
    Control, LongForm, SpeechRegion, Task, TranscribeOptions, TranscribeRequest as EngineRequest,
    TranscriberHandle, Transcription, WavSource,
};
use dalston_schema::db::tasks::Completion;
use dalston_schema::task::{PreparedAudio, TranscribeRequest, TranscribeResponse};
use tokio::time::Instant;

use super::portion::Portion;
use super::{TaskContext, answer, blocking, channel_file};
use crate::coverage::Interval;
use crate::failure::{StageError, StageResult};
use crate::languages::Heard;
use crate::live_text;
use crate::load_engine;

/// Length of the stretch that the first window of a file begins in, seconds: any is longer than nothing.
const FIRST_WINDOW: f64 = 1e-3;
/// Where speech is looked for when there is none in the first window, seconds.
const FIRST_MINUTES: f64 = 300.0;

pub async fn run(context: &TaskContext<'_>) -> StageResult<Completion> {
    let request: TranscribeRequest = context.request()?;
    let prepare = context.prepared().await?;
    let audio = channel_file(&prepare, request.channel)?;
    let whole = Portion::whole(context.progress);
    let (portion, rest) = integrated::shares(&request, &whole);
    let started = Instant::now();
    let response = if context.task.engine == load_engine::NAME {
        sleep_through(context, &request, audio, &portion).await?
    } else {
        transcribe(context, &request, audio, &portion).await?
    };
    context.environment.measures.observe_speed(
        context.task.stage,
        &context.task.model,
        request
            .chunk
            .map_or(audio.duration, |chunk| chunk.end - chunk.start),
        started.elapsed().as_secs_f64(),
    );
    match &request.integrated {
        None => answer(&response),
        Some(stages) => integrated::run(context, stages, audio, response, &rest).await,
    }
}

async fn sleep_through(
    context: &TaskContext<'_>,
    request: &TranscribeRequest,
    audio: &PreparedAudio,
    portion: &Portion,
) -> StageResult<TranscribeResponse> {
    let config = context.environment.config.load_engine.ok_or_else(|| {
        StageError::retryable("This worker does not run the load-test engine any more.")
    })?;
    let seconds_in_all = request
        .chunk
        .map_or(audio.duration, |chunk| chunk.end - chunk.start);
    load_engine::transcribe(
        config,
        request,
        audio,
        context.task.attempt,
        context.stop,
        &|seconds| portion.report(seconds, seconds_in_all),
    )
    .await
}

async fn transcribe(
    context: &TaskContext<'_>,
    request: &TranscribeRequest,
    audio: &PreparedAudio,
    portion: &Portion,
) -> StageResult<TranscribeResponse> {
    if !has_speech(request, audio) {
        return Ok(response::without_speech(context, request, audio));
    }
    let key = context.model_key();
    let model = context.acquire(&key).await?;
    let transcriber = model.clone().into_transcriber().ok_or_else(|| {
        StageError::permanent(format!("The model {} is no transcriber.", key.model))
    })?;
    let path = context.fetch_prepared(audio).await?;
    let mut options = options(request, &audio.speech_regions);
    let mut detected = None;
    if request.chunk.is_some() && request.language.is_none() {
        detected = language_of_file(context, &transcriber, audio, &path).await?;
        options.language = detected.as_ref().map(|(language, _)| language.clone());
    }
    let duration = audio.duration;
    let portion = portion.clone();
    let (settled, writer) = live_text::teller(&context.environment.pool, context.task, request);
    let control = Control {
        cancel: context.stop.flag().clone(),
        progress: Some(Arc::new(move |seconds| portion.report(seconds, duration))),
        settled: Some(settled),
    };
    let mut transcription = listen(transcriber, &path, options, control).await?;
    // What was told comes before the task's end in the job's log.
    tokio::select! {
        _ = writer => {}
        () = context.stop.stopped() => return Err(StageError::Stopped),
    }
    if let Some((_, probability)) = detected {
        transcription.language_probability = Some(probability);
    }
    Ok(response::response(context, request, audio, transcription))
}

/// One call of the model.
async fn listen(
    transcriber: TranscriberHandle,
    path: &Path,
    options: TranscribeOptions,
    control: Control,
) -> StageResult<Transcription> {
    let path = PathBuf::from(path);
    blocking(move || {
        let audio = Arc::new(WavSource::open(&path)?);
        Ok(transcriber.transcribe(EngineRequest {
            audio,
            options,
            control,
            time_limit: None,
        })?)
    })
    .await
}

/// The language of a file that is cut into chunks, as one task for all of it would hear it: in the first window, or in
/// the first minutes should nobody speak there. Each worker listens once. Without it the chunks might not agree. `None`
/// for a model that does not tell languages apart.
async fn language_of_file(
    context: &TaskContext<'_>,
    transcriber: &TranscriberHandle,
    audio: &PreparedAudio,
    path: &Path,
) -> StageResult<Option<Heard>> {
    let key = (context.task.model.clone(), audio.key.clone());
    if let Some(known) = context.environment.languages.get(&key) {
        return Ok(known);
    }
    let first = audio.speech_regions.first().map_or(0.0, |region| region.0);
    let mut language = None;
    for seconds in [FIRST_WINDOW, FIRST_MINUTES] {
        let options = TranscribeOptions {
            temperatures: vec![0.0],
            part: Some(SpeechRegion {
                start: first,
                end: first + seconds,
            }),
            ..options(&TranscribeRequest::default(), &audio.speech_regions)
        };
        let control = Control {
            cancel: context.stop.flag().clone(),
            ..Control::default()
        };
        let heard = listen(transcriber.clone(), path, options, control).await?;
        language = heard
            .language_probability
            .map(|probability| (heard.language, probability));
        if language.is_some() || !heard.segments.is_empty() {
            break;
        }
    }
    context.environment.languages.keep(key, language.clone());
    Ok(language)
}

/// Whether this task has any speech to transcribe.
fn has_speech(request: &TranscribeRequest, audio: &PreparedAudio) -> bool {
    let (from, to) = request
        .chunk
        .map_or((0.0, f64::INFINITY), |chunk| (chunk.start, chunk.end));
    audio
        .speech_regions
        .iter()
        .any(|&(start, end)| start < to && end > from)
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
        part: request.chunk.map(|chunk| SpeechRegion {
            start: chunk.start,
            end: chunk.end,
        }),
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use dalston_schema::task::Chunk;

    use super::*;

    #[test]
    fn a_chunk_asks_for_the_windows_that_begin_in_it_out_of_all_the_speech() {
        let chunk = |start, end| TranscribeRequest {
            chunk: Some(Chunk {
                index: 1,
                start,
                end,
            }),
            ..TranscribeRequest::default()
        };
        let audio = PreparedAudio {
            duration: 100.0,
            speech_regions: vec![(0.0, 5.0), (8.0, 12.0), (15.0, 30.0), (70.0, 80.0)],
            ..PreparedAudio::default()
        };
        let options = options(&chunk(10.0, 20.0), &audio.speech_regions);
        let part = options.part.map(|part| (part.start, part.end));
        assert_eq!(part, Some((10.0, 20.0)));
        assert!(matches!(options.long_form, LongForm::Batched(regions) if regions.len() == 4));
        assert!(has_speech(&chunk(10.0, 20.0), &audio));
        assert!(!has_speech(&chunk(30.0, 70.0), &audio));
        assert!(has_speech(&TranscribeRequest::default(), &audio));
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
}
