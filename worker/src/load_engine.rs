//! The engine for load and fault tests: it takes the time a real engine would take, and computes nothing.
//!
//! It is offered only by a worker that was told so ([`crate::WorkerConfig::load_engine`]), as engine and model `sleep`.
//! It sleeps for `audio seconds × realtime factor`, reports progress, stops when the task is stopped, and answers one
//! segment per speech region, always the same for the same audio. So coordination can be measured on a machine whose
//! cores could not do the computation.
//!
//! With [`LoadEngineConfig::faults`] it also reads directives from the job's prompt, each `name=value`, after the word
//! `sleep:`: `seconds=2.5` (sleep that long), `fail=retryable` or `fail=permanent`, `panic=yes`, `abort=yes` (kill the
//! process, as a crash in native code would), `hang=yes` (never end by itself), and `attempts=2` (do the fault on the first
//! two attempts only). For example `sleep: seconds=1 fail=retryable attempts=2`. Otherwise the prompt is ignored.

use std::time::Duration;

use dalston_schema::capability::{Capability, OfferedCapability};
use dalston_schema::task::{PreparedAudio, Stage, TranscribeRequest, TranscribeResponse};
use dalston_schema::transcript::{Segment, Word};
use tokio::time::Instant;

use crate::failure::{StageError, StageResult};
use crate::stop::Stop;

/// Engine id and model id.
pub const NAME: &str = "sleep";
/// What introduces directives in a prompt.
const DIRECTIVES: &str = "sleep:";
/// How often progress is reported.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// How the load-test engine behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadEngineConfig {
    /// Seconds of sleep per second of audio.
    pub realtime_factor: f64,
    /// Obey directives in prompts; for fault tests only.
    pub faults: bool,
}

/// The capability a worker with this engine offers. Its size is 0, so `auto` never prefers it to a real model.
#[must_use]
pub fn capability() -> OfferedCapability {
    let capability = Capability {
        stage: Stage::Transcribe,
        engine: NAME.to_owned(),
        model: NAME.to_owned(),
    };
    OfferedCapability {
        native_words: true,
        translates: true,
        ..OfferedCapability::new(capability)
    }
}

/// Sleeps through one task. `report` receives seconds of audio done.
///
/// # Errors
/// [`StageError::Stopped`], or the failure that a directive asked for.
pub async fn transcribe(
    config: LoadEngineConfig,
    request: &TranscribeRequest,
    audio: &PreparedAudio,
    attempt: i32,
    stop: &Stop,
    report: &(dyn Fn(f64) + Send + Sync),
) -> StageResult<TranscribeResponse> {
    let (from, to) = request
        .chunk
        .map_or((0.0, audio.duration), |chunk| (chunk.start, chunk.end));
    let directives = match &request.prompt {
        Some(prompt) if config.faults => Directives::parse(prompt)?,
        _ => Directives::default(),
    };
    let seconds = directives
        .seconds
        .unwrap_or((to - from).max(0.0) * config.realtime_factor);
    sleep(seconds, to - from, stop, report).await?;
    if directives.attempts.is_none_or(|last| attempt <= last) {
        directives.fault(stop).await?;
    }
    Ok(response(request, audio, from, to))
}

async fn sleep(
    seconds: f64,
    audio_seconds: f64,
    stop: &Stop,
    report: &(dyn Fn(f64) + Send + Sync),
) -> StageResult<()> {
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        let next = end.min(Instant::now() + REPORT_INTERVAL);
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = stop.stopped() => return Err(StageError::Stopped),
        }
        let share = started.elapsed().as_secs_f64() / seconds;
        report(audio_seconds * share.min(1.0));
    }
    Ok(())
}

/// One segment of one word per speech region in `from..to`, or one for everything when no speech was found.
fn response(
    request: &TranscribeRequest,
    audio: &PreparedAudio,
    from: f64,
    to: f64,
) -> TranscribeResponse {
    let whole = [(0.0, audio.duration)];
    let regions = if audio.speech_regions.is_empty() {
        &whole[..]
    } else {
        &audio.speech_regions
    };
    let segments: Vec<Segment> = regions
        .iter()
        .enumerate()
        .filter(|(_, region)| region.0 >= from && region.0 < to)
        .map(|(index, &(start, end))| {
            let text = format!("region{index}");
            Segment {
                start,
                end,
                words: request.word_timestamps.then(|| {
                    vec![Word {
                        text: text.clone(),
                        start,
                        end,
                        confidence: Some(1.0),
                        ..Word::default()
                    }]
                }),
                text,
                confidence: Some(1.0),
                ..Segment::default()
            }
        })
        .collect();
    TranscribeResponse {
        text: segments
            .iter()
            .map(|segment| segment.text.as_str())
            .collect::<Vec<_>>()
            .join(" "),
        segments,
        language: request.language.clone().unwrap_or_else(|| "en".to_owned()),
        language_confidence: None,
        language_source: if request.language.is_some() {
            "requested"
        } else {
            "detected"
        }
        .to_owned(),
        engine: NAME.to_owned(),
        model: NAME.to_owned(),
        device: "cpu".to_owned(),
        alignment_method: request.word_timestamps.then(|| "unknown".to_owned()),
        channel: audio.channel,
        chunk: request.chunk,
        ..TranscribeResponse::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    FailRetryable,
    FailPermanent,
    Panic,
    Abort,
    Hang,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Directives {
    seconds: Option<f64>,
    fault: Option<Fault>,
    /// The last attempt that has the fault; `None`: all.
    attempts: Option<i32>,
}

impl Directives {
    fn parse(prompt: &str) -> StageResult<Self> {
        let mut directives = Self::default();
        let Some((_, list)) = prompt.split_once(DIRECTIVES) else {
            return Ok(directives);
        };
        for word in list.split_whitespace() {
            let unknown = || StageError::permanent(format!("unknown load-test directive {word:?}"));
            let (name, value) = word.split_once('=').ok_or_else(unknown)?;
            match (name, value) {
                ("seconds", _) => {
                    let seconds: f64 = value.parse().map_err(|_| unknown())?;
                    if !(0.0..=86_400.0).contains(&seconds) {
                        return Err(unknown());
                    }
                    directives.seconds = Some(seconds);
                }
                ("attempts", _) => {
                    directives.attempts = Some(value.parse().map_err(|_| unknown())?);
                }
                ("fail", "retryable") => directives.fault = Some(Fault::FailRetryable),
                ("fail", "permanent") => directives.fault = Some(Fault::FailPermanent),
                ("panic", "yes") => directives.fault = Some(Fault::Panic),
                ("abort", "yes") => directives.fault = Some(Fault::Abort),
                ("hang", "yes") => directives.fault = Some(Fault::Hang),
                _ => return Err(unknown()),
            }
        }
        Ok(directives)
    }

    #[expect(
        clippy::panic,
        reason = "a fault test asks for exactly this: a panic inside a stage"
    )]
    async fn fault(self, stop: &Stop) -> StageResult<()> {
        match self.fault {
            None => Ok(()),
            Some(Fault::FailRetryable) => Err(StageError::retryable(
                "the load-test engine was told to fail",
            )),
            Some(Fault::FailPermanent) => Err(StageError::permanent(
                "the load-test engine was told to fail",
            )),
            Some(Fault::Panic) => panic!("the load-test engine was told to panic"),
            Some(Fault::Abort) => std::process::abort(),
            Some(Fault::Hang) => {
                stop.stopped().await;
                Err(StageError::Stopped)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::sync::Mutex;

    use super::*;
    use crate::stop::StopReason;

    fn audio() -> PreparedAudio {
        PreparedAudio {
            key: "jobs/x/prepared.wav".into(),
            duration: 100.0,
            speech_regions: vec![(1.0, 30.0), (35.0, 80.0)],
            ..PreparedAudio::default()
        }
    }

    fn asking(prompt: &str) -> TranscribeRequest {
        TranscribeRequest {
            prompt: Some(prompt.into()),
            ..TranscribeRequest::default()
        }
    }

    const FAULTS: LoadEngineConfig = LoadEngineConfig {
        realtime_factor: 0.1,
        faults: true,
    };

    #[tokio::test(start_paused = true)]
    async fn it_takes_the_time_it_was_told_and_reports_progress() {
        let reported = Mutex::new(Vec::new());
        let started = Instant::now();
        let request = TranscribeRequest::default();
        let report = |seconds| reported.lock().unwrap().push(seconds);
        let response = transcribe(FAULTS, &request, &audio(), 1, &Stop::default(), &report)
            .await
            .unwrap();
        assert_eq!(started.elapsed().as_secs(), 10);
        assert_eq!(response.text, "region0 region1");
        assert!(reported.lock().unwrap().len() > 100);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_at_once_when_stopped() {
        let stop = Stop::default();
        let started = Instant::now();
        let (request, audio) = (asking("sleep: seconds=900"), audio());
        let (result, ()) = tokio::join!(
            transcribe(FAULTS, &request, &audio, 1, &stop, &|_| {}),
            async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                stop.stop(StopReason::JobCancelled);
            }
        );
        assert!(matches!(result, Err(StageError::Stopped)));
        assert_eq!(started.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_fails_on_the_attempts_it_was_told_and_only_there() {
        let request = asking("sleep: seconds=0 fail=retryable attempts=2");
        for (attempt, fails) in [(1, true), (2, true), (3, false)] {
            let result = transcribe(
                FAULTS,
                &request,
                &audio(),
                attempt,
                &Stop::default(),
                &|_| {},
            )
            .await;
            assert_eq!(result.is_err(), fails, "attempt {attempt}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_leave_for_faults_a_prompt_changes_nothing() {
        let config = LoadEngineConfig {
            realtime_factor: 0.0,
            faults: false,
        };
        let request = asking("sleep: abort=yes");
        let result = transcribe(config, &request, &audio(), 1, &Stop::default(), &|_| {}).await;
        assert!(result.is_ok());
    }

    #[test]
    fn a_directive_that_is_not_known_is_named() {
        let error = Directives::parse("sleep: explode=yes").unwrap_err();
        assert!(error.to_string().contains("explode=yes"));
        assert_eq!(
            Directives::parse("a normal prompt").unwrap(),
            Directives::default()
        );
    }
}
