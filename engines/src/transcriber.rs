//! A model owned by one thread, and the handle others send it work through. The thread keeps every active request and
//! batches pieces of several into each model call, in turns, so that a short file is not stuck behind a long one.

use std::sync::mpsc::{
    Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::audio_source::AudioSource;
use crate::error::{EngineError, Result};
use crate::session::RunGuard;
use crate::transcription::{CancelFlag, Control, Segment, TranscribeOptions, Transcription};

/// How often a waiting caller looks at its cancel flag: well under the second a cancellation may take.
const CANCEL_POLL: Duration = Duration::from_millis(20);

/// A model that works on several requests at once, a batch at a time. Implemented by each engine; the thread in this
/// module does the rest.
pub trait BatchTranscriber: Send + 'static {
    /// One request in progress.
    type Job;

    /// Checks a request and plans it; no model call. `cancel` is raised when the request is given up.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] for what the model cannot do, [`EngineError::Audio`].
    fn begin(
        &self,
        audio: Arc<dyn AudioSource>,
        options: TranscribeOptions,
        cancel: CancelFlag,
    ) -> Result<Self::Job>;

    /// Makes one batch of model calls on pieces of some or all jobs. Every unfinished job gets its turn.
    ///
    /// # Errors
    /// A failing graph, which fails every job in the call.
    fn step(&mut self, jobs: &mut [&mut Self::Job], run: &RunGuard) -> Result<()>;

    /// Whether nothing is left to do.
    fn is_done(job: &Self::Job) -> bool;

    /// Seconds of audio done; only grows.
    fn progress(job: &Self::Job) -> f64;

    /// Segments that nothing still to come changes or precedes, each answered once, in order of time. Their texts, put
    /// together as they are, are what the answer's text begins with.
    fn settled(_job: &mut Self::Job) -> Vec<Segment> {
        Vec::new()
    }

    /// The answer to a finished job.
    ///
    /// # Errors
    /// What stopped this job alone, such as audio that cannot be read.
    fn finish(&self, job: Self::Job) -> Result<Transcription>;

    /// Bytes of weights held in memory.
    fn weight_bytes(&self) -> u64;
}

/// One request.
#[derive(Clone)]
pub struct TranscribeRequest {
    /// Audio to transcribe, 16 kHz mono.
    pub audio: Arc<dyn AudioSource>,
    /// What to make of it.
    pub options: TranscribeOptions,
    /// Cancellation and progress.
    pub control: Control,
    /// Longest time to take; `None` derives it from the audio ([`default_time_limit`]).
    pub time_limit: Option<Duration>,
}

impl TranscribeRequest {
    /// A request without control or time limit of its own.
    pub fn new(audio: Arc<dyn AudioSource>, options: TranscribeOptions) -> Self {
        Self {
            audio,
            options,
            control: Control::default(),
            time_limit: None,
        }
    }
}

/// Five minutes and twenty times the length of the audio: the slowest useful machine is faster, a hang is not.
pub fn default_time_limit(audio_seconds: f64) -> Duration {
    Duration::from_secs_f64(300.0 + 20.0 * audio_seconds)
}

/// The way to a model on its own thread. Clones share the model; dropping the last one ends the thread.
#[derive(Clone)]
pub struct TranscriberHandle(Arc<Shared>);

struct Shared {
    /// `None` only while dropping.
    requests: Option<Sender<Pending>>,
    thread: Option<JoinHandle<()>>,
    current: Arc<CurrentCall>,
    weight_bytes: u64,
}

/// A request on its way to the thread.
struct Pending {
    request: TranscribeRequest,
    abandoned: CancelFlag,
    reply: SyncSender<Result<Transcription>>,
}

/// The model call that is running, if one is: whoever gives up its last request stops it.
#[derive(Default)]
struct CurrentCall(Mutex<Option<(RunGuard, Vec<CancelFlag>)>>);

impl CurrentCall {
    fn set(&self, call: Option<(RunGuard, Vec<CancelFlag>)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }

    fn stop_if_abandoned(&self) {
        let call = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((run, flags)) = &*call
            && flags.iter().all(CancelFlag::is_cancelled)
        {
            run.stop();
        }
    }
}

impl TranscriberHandle {
    /// Gives a model its thread.
    ///
    /// # Errors
    /// [`EngineError::Audio`] never; [`EngineError::Graph`] when the thread cannot be started.
    pub fn spawn<M: BatchTranscriber>(name: &str, model: M) -> Result<Self> {
        let (sender, receiver) = channel();
        let current = Arc::new(CurrentCall::default());
        let weight_bytes = model.weight_bytes();
        let calls = Arc::clone(&current);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || serve(model, &receiver, &calls))
            .map_err(|error| EngineError::graph("starting the model's thread", error))?;
        let shared = Shared {
            requests: Some(sender),
            thread: Some(thread),
            current,
            weight_bytes,
        };
        Ok(Self(Arc::new(shared)))
    }

    /// Transcribes, blocking the caller until the answer is there.
    ///
    /// # Errors
    /// Whatever the model answers; [`EngineError::Cancelled`] soon after the flag is raised,
    /// [`EngineError::TimeLimit`], [`EngineError::Unloaded`] when the thread has ended.
    pub fn transcribe(&self, request: TranscribeRequest) -> Result<Transcription> {
        let audio_s = request.audio.duration();
        let limit = request
            .time_limit
            .unwrap_or_else(|| default_time_limit(audio_s));
        let deadline = Instant::now() + limit;
        let cancel = request.control.cancel.clone();
        let abandoned = CancelFlag::new();
        let (reply, answer) = sync_channel(1);
        let pending = Pending {
            request,
            abandoned: abandoned.clone(),
            reply,
        };
        let sender = self.0.requests.as_ref().ok_or(EngineError::Unloaded)?;
        sender.send(pending).map_err(|_| EngineError::Unloaded)?;
        loop {
            match answer.recv_timeout(CANCEL_POLL) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => return Err(EngineError::Unloaded),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let why = if cancel.is_cancelled() {
                EngineError::Cancelled
            } else if Instant::now() >= deadline {
                EngineError::TimeLimit {
                    limit_s: limit.as_secs_f64(),
                    audio_s,
                }
            } else {
                continue;
            };
            abandoned.cancel();
            self.0.current.stop_if_abandoned();
            return Err(why);
        }
    }

    /// Bytes of weights the model holds.
    pub fn weight_bytes(&self) -> u64 {
        self.0.weight_bytes
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a model's thread panicked");
        }
    }
}

/// A request the thread works on.
struct Active<J> {
    job: J,
    control: Control,
    abandoned: CancelFlag,
    reply: SyncSender<Result<Transcription>>,
}

fn serve<M: BatchTranscriber>(mut model: M, requests: &Receiver<Pending>, current: &CurrentCall) {
    let mut active: Vec<Active<M::Job>> = Vec::new();
    while take_requests(&model, requests, &mut active) {
        active.retain(|request| !request.abandoned.is_cancelled());
        if active.is_empty() {
            continue;
        }
        let outcome = RunGuard::new().and_then(|run| {
            current.set(Some((
                run.clone(),
                active
                    .iter()
                    .map(|request| request.abandoned.clone())
                    .collect(),
            )));
            // A caller that gave up before the call was announced found nothing to stop.
            current.stop_if_abandoned();
            let mut jobs: Vec<&mut M::Job> =
                active.iter_mut().map(|request| &mut request.job).collect();
            let outcome = model.step(&mut jobs, &run);
            current.set(None);
            outcome
        });
        match outcome {
            Ok(()) => answer_finished(&model, &mut active),
            Err(error) => {
                for request in active.drain(..) {
                    // The caller may have stopped waiting.
                    let _ = request.reply.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Takes in what has arrived, waiting when there is nothing to do. False when every handle is gone.
fn take_requests<M: BatchTranscriber>(
    model: &M,
    requests: &Receiver<Pending>,
    active: &mut Vec<Active<M::Job>>,
) -> bool {
    loop {
        let pending = if active.is_empty() {
            requests.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            requests.try_recv()
        };
        let Pending {
            request,
            abandoned,
            reply,
        } = match pending {
            Ok(pending) => pending,
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return !active.is_empty(),
        };
        match model.begin(request.audio, request.options, abandoned.clone()) {
            Ok(job) => active.push(Active {
                job,
                control: request.control,
                abandoned,
                reply,
            }),
            Err(error) => drop(reply.send(Err(error))),
        }
    }
}

fn answer_finished<M: BatchTranscriber>(model: &M, active: &mut Vec<Active<M::Job>>) {
    let (done, rest): (Vec<_>, Vec<_>) = active
        .drain(..)
        .partition(|request| M::is_done(&request.job));
    *active = rest;
    for request in active.iter_mut() {
        request.control.report(M::progress(&request.job));
        if let Some(tell) = &request.control.settled {
            let segments = M::settled(&mut request.job);
            if !segments.is_empty() {
                tell(&segments);
            }
        }
    }
    for request in done {
        let answer = model.finish(request.job);
        if let Ok(transcription) = &answer {
            request.control.report(transcription.duration);
        }
        drop(request.reply.send(answer));
    }
}

#[cfg(test)]
mod tests;
