//! The thread around a model, with a model that computes nothing: each step takes one turn of every job, when it is
//! allowed to.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::session::{Device, Runtime, RuntimeOptions};

/// Seconds of audio are turns a job needs.
struct Turns {
    /// A step waits for one of these.
    permits: Receiver<()>,
    /// How many jobs each step saw.
    seen: Sender<usize>,
    panics: bool,
    dropped: Arc<AtomicUsize>,
}

struct TurnsJob {
    left: usize,
    total: usize,
}

impl BatchTranscriber for Turns {
    type Job = TurnsJob;

    fn begin(
        &self,
        audio: Arc<dyn AudioSource>,
        options: TranscribeOptions,
        _: CancelFlag,
    ) -> Result<TurnsJob> {
        if options.beam_size == 0 {
            return Err(EngineError::InvalidRequest("no beams".to_owned()));
        }
        let total = audio.duration() as usize;
        Ok(TurnsJob { left: total, total })
    }

    fn step(&mut self, jobs: &mut [&mut TurnsJob], run: &RunGuard) -> Result<()> {
        assert!(!self.panics, "asked to panic");
        self.seen.send(jobs.len()).unwrap();
        while self.permits.recv_timeout(Duration::from_millis(1)).is_err() {
            run.check()?;
        }
        for job in jobs {
            job.left = job.left.saturating_sub(1);
        }
        Ok(())
    }

    fn is_done(job: &TurnsJob) -> bool {
        job.left == 0
    }

    fn progress(job: &TurnsJob) -> f64 {
        (job.total - job.left) as f64
    }

    fn finish(&self, job: TurnsJob) -> Result<Transcription> {
        Ok(Transcription {
            text: format!("{} turns", job.total),
            language: "en".to_owned(),
            language_probability: None,
            duration: job.total as f64,
            segments: Vec::new(),
            warnings: Vec::new(),
        })
    }

    fn weight_bytes(&self) -> u64 {
        7
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

struct Bench {
    handle: TranscriberHandle,
    permit: Sender<()>,
    seen: Receiver<usize>,
    dropped: Arc<AtomicUsize>,
}

fn bench(panics: bool) -> Bench {
    // A call's guard is ONNX Runtime's own, even for a model without graphs.
    Runtime::load(&RuntimeOptions {
        device: Device::Cpu,
        library: None,
    })
    .unwrap();
    let (permit, permits) = channel();
    let (sender, seen) = channel();
    let dropped = Arc::new(AtomicUsize::new(0));
    let model = Turns {
        permits,
        seen: sender,
        panics,
        dropped: Arc::clone(&dropped),
    };
    let handle = TranscriberHandle::spawn("turns", model).unwrap();
    Bench {
        handle,
        permit,
        seen,
        dropped,
    }
}

/// More turns than any test gives, however late the second request arrives.
const ENDLESS: u64 = 1 << 40;

/// Silence of any length, in seconds, that takes no memory.
struct Silence(u64);

impl AudioSource for Silence {
    fn n_samples(&self) -> u64 {
        self.0 * u64::from(crate::audio_source::SAMPLE_RATE)
    }

    fn read(&self, _: u64, out: &mut [f32]) -> Result<()> {
        out.fill(0.0);
        Ok(())
    }
}

fn request(seconds: u64) -> TranscribeRequest {
    TranscribeRequest::new(Arc::new(Silence(seconds)), TranscribeOptions::default())
}

/// A request that only `cancel` ends.
fn endless_request(cancel: &CancelFlag) -> TranscribeRequest {
    TranscribeRequest {
        control: Control {
            cancel: cancel.clone(),
            ..Control::default()
        },
        // Derived from so long an audio, no clock could hold it.
        time_limit: Some(Duration::from_secs(3600)),
        ..request(ENDLESS)
    }
}

#[test]
fn requests_that_arrive_meanwhile_join_the_next_call() {
    let Bench {
        handle,
        permit,
        seen,
        ..
    } = bench(false);
    std::thread::scope(|scope| {
        let cancel = CancelFlag::new();
        let long = endless_request(&cancel);
        let long = scope.spawn(|| handle.transcribe(long));
        assert_eq!(seen.recv().unwrap(), 1);
        let short = scope.spawn(|| handle.transcribe(request(1)));
        // Turns are given until a call sees both.
        loop {
            permit.send(()).unwrap();
            if seen.recv().unwrap() == 2 {
                break;
            }
        }
        permit.send(()).unwrap();
        assert_eq!(short.join().unwrap().unwrap().text, "1 turns");
        assert!(!long.is_finished());
        cancel.cancel();
        assert!(matches!(long.join().unwrap(), Err(EngineError::Cancelled)));
    });
}

#[test]
fn giving_up_the_only_request_stops_the_running_call() {
    let Bench {
        handle,
        permit,
        seen,
        ..
    } = bench(false);
    std::thread::scope(|scope| {
        let cancel = CancelFlag::new();
        let control = Control {
            cancel: cancel.clone(),
            ..Control::default()
        };
        let request_5 = TranscribeRequest {
            control,
            ..request(5)
        };
        let waiting = scope.spawn(|| handle.transcribe(request_5));
        assert_eq!(seen.recv().unwrap(), 1);
        // The call waits for a permit it never gets: only the stop ends it.
        cancel.cancel();
        assert!(matches!(
            waiting.join().unwrap(),
            Err(EngineError::Cancelled)
        ));
        let next = scope.spawn(|| handle.transcribe(request(1)));
        assert_eq!(seen.recv().unwrap(), 1);
        permit.send(()).unwrap();
        assert!(next.join().unwrap().is_ok());
    });
}

#[test]
fn giving_up_one_of_two_requests_leaves_the_other_running() {
    let Bench {
        handle,
        permit,
        seen,
        ..
    } = bench(false);
    std::thread::scope(|scope| {
        let cancel = CancelFlag::new();
        let given_up = endless_request(&cancel);
        let given_up = scope.spawn(|| handle.transcribe(given_up));
        assert_eq!(seen.recv().unwrap(), 1);
        let kept = scope.spawn(|| handle.transcribe(request(3)));
        loop {
            permit.send(()).unwrap();
            if seen.recv().unwrap() == 2 {
                break;
            }
        }
        cancel.cancel();
        assert!(matches!(
            given_up.join().unwrap(),
            Err(EngineError::Cancelled)
        ));
        for _ in 0..3 {
            permit.send(()).unwrap();
        }
        assert_eq!(kept.join().unwrap().unwrap().text, "3 turns");
    });
}

#[test]
fn a_refused_request_is_answered_and_the_rest_go_on() {
    let Bench {
        handle,
        permit,
        seen,
        ..
    } = bench(false);
    let refused = TranscribeRequest {
        options: TranscribeOptions {
            beam_size: 0,
            ..TranscribeOptions::default()
        },
        ..request(1)
    };
    assert!(matches!(
        handle.transcribe(refused),
        Err(EngineError::InvalidRequest(_))
    ));
    permit.send(()).unwrap();
    assert!(handle.transcribe(request(1)).is_ok());
    assert_eq!(seen.recv().unwrap(), 1);
}

#[test]
fn dropping_the_last_handle_waits_for_the_thread_to_end() {
    let Bench {
        handle, dropped, ..
    } = bench(false);
    let clone = handle.clone();
    assert_eq!(clone.weight_bytes(), 7);
    drop(handle);
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    drop(clone);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn a_model_that_panics_leaves_no_caller_waiting() {
    let Bench { handle, .. } = bench(true);
    assert!(matches!(
        handle.transcribe(request(1)),
        Err(EngineError::Unloaded)
    ));
    assert!(matches!(
        handle.transcribe(request(1)),
        Err(EngineError::Unloaded)
    ));
}
