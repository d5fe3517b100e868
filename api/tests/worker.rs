//! A worker that announces `whisper-nano` and answers every job with the same two segments.

use std::time::Duration;

use chrono::Utc;
use dalston_schema::capability::{Capability, OfferedCapability};
use dalston_schema::catalogue;
use dalston_schema::db::tasks::{self, Completion, Wanted};
use dalston_schema::db::workers::{self, NewWorker};
use dalston_schema::db::{PgPool, jobs};
use dalston_schema::task::ClaimedTask;
use dalston_schema::transcript::{Transcript, TranscriptStats};
use dalston_schema::{JobId, Stage, WorkerId};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// What every job says.
pub const TEXT: &str = "Good morning. And welcome.";

pub struct Worker {
    pub id: WorkerId,
    wanted: Vec<Wanted>,
}

/// A worker at work; stops when dropped.
pub struct AtWork(JoinHandle<()>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Worker {
    pub fn unregistered() -> Self {
        Self {
            id: WorkerId::generate(),
            wanted: Vec::new(),
        }
    }

    pub async fn register(pool: &PgPool) -> Self {
        Self::offering(pool, &[]).await
    }

    /// One that also tells speakers apart.
    pub async fn with_voices(pool: &PgPool) -> Self {
        let voices = OfferedCapability::new(Capability {
            stage: Stage::Diarize,
            engine: "pyannote".to_owned(),
            model: "pyannote-segmentation-nano".to_owned(),
        });
        Self::offering(pool, &[voices]).await
    }

    async fn offering(pool: &PgPool, more: &[OfferedCapability]) -> Self {
        let id = WorkerId::generate();
        let nano = catalogue::entry("whisper-nano")
            .unwrap()
            .offered("cpu", 5_000_000);
        let plain = |stage| OfferedCapability {
            capability: Capability::without_model(stage),
            ..nano.clone()
        };
        let mut offers = vec![plain(Stage::Prepare), nano.clone(), plain(Stage::Merge)];
        offers.extend_from_slice(more);
        let new = NewWorker {
            id,
            hostname: "test".to_owned(),
            identity: None,
            version: "0.1.0".to_owned(),
            device: "cpu".to_owned(),
            slots: 2,
        };
        let ids = workers::register(pool, &new, &offers).await.unwrap();
        let wanted = ids
            .into_iter()
            .map(|capability_id| Wanted {
                capability_id,
                loaded: true,
            })
            .collect();
        Self { id, wanted }
    }

    /// Claims what is ready.
    pub async fn claim(&self, pool: &PgPool) -> Vec<ClaimedTask> {
        tasks::claim(pool, self.id, &self.wanted, 4, 30.0)
            .await
            .unwrap()
    }

    /// Works until nothing is ready.
    pub async fn work(&self, pool: &PgPool) {
        loop {
            let claimed = self.claim(pool).await;
            if claimed.is_empty() {
                return;
            }
            for task in claimed {
                complete(pool, &task).await;
            }
        }
    }

    /// Works in the background.
    pub async fn at_work(pool: &PgPool) -> AtWork {
        let worker = Self::register(pool).await;
        let pool = pool.clone();
        AtWork(tokio::spawn(async move {
            loop {
                worker.work(&pool).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }))
    }
}

/// Completes a task; a merge brings the transcript.
pub async fn complete(pool: &PgPool, task: &ClaimedTask) {
    let transcript = match task.stage {
        Stage::Merge => Some(transcript(pool, task.job_id).await),
        _ => None,
    };
    let completion = Completion {
        transcript,
        ..Completion::answering(&json!({"stage": task.stage})).unwrap()
    };
    assert_eq!(
        tasks::complete(pool, task.lease(), &completion)
            .await
            .unwrap(),
        tasks::Outcome::Done
    );
}

async fn transcript(pool: &PgPool, job: JobId) -> (Transcript, TranscriptStats) {
    let job = jobs::get_unscoped(pool, job).await.unwrap().unwrap();
    let segment = |index: usize, start: f64, end: f64, text: &str| -> Value {
        let words: Vec<Value> = text
            .split(' ')
            .enumerate()
            .map(|(at, word)| {
                let start = start + at as f64 * 0.3;
                json!({"text": word, "start": start, "end": start + 0.25, "confidence": 0.9, "characters": null,
                       "phonemes": null, "alignment_method": "attention", "language": null, "speaker": null,
                       "channel": null})
            })
            .collect();
        json!({"id": format!("seg_{index:03}"), "start": start, "end": end, "text": text, "redacted_text": null,
               "speaker": null, "language": null, "words": words, "tokens": [1, 2], "temperature": 0.0,
               "confidence": 0.9, "avg_logprob": -0.1, "compression_ratio": 1.0, "no_speech_prob": 0.01,
               "speaker_confidence": null, "emotion": null, "emotion_confidence": null, "events": []})
    };
    let transcript: Transcript = serde_json::from_value(json!({
        "job_id": job.id, "version": "1.0", "text": TEXT, "speakers": [],
        "segments": [segment(0, 0.0, 1.2, "Good morning."), segment(1, 1.5, 2.5, "And welcome.")],
        "metadata": {
            "audio_duration": job.audio_duration_seconds, "audio_channels": 1, "sample_rate": 16000,
            "language": "en", "language_confidence": 0.99, "language_source": "detected", "languages": null,
            "word_timestamps": true, "word_timestamps_requested": true, "speaker_detection": "none",
            "speaker_count": 0, "created_at": job.created_at, "completed_at": Utc::now(),
            "pipeline_stages": ["prepare", "transcribe", "merge"],
            "pipeline_warnings": job.parameters.0.planning_warnings,
        },
        "paragraphs": [], "summary": null, "redacted_text": null, "pii_entities": null, "pii_metadata": null,
    }))
    .unwrap();
    let stats = transcript.stats();
    (transcript, stats)
}
