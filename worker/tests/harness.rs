//! A database, an object store and workers for one test.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dalston_schema::db::jobs;
use dalston_schema::db::tasks;
use dalston_schema::job::{JobParameters, NewJob, UploadedAudio};
use dalston_schema::storage::StorageConfig;
use dalston_schema::task::{
    MergeRequest, NewTask, PrepareRequest, PrepareResponse, Task, TranscribeRequest,
};
use dalston_schema::transcript::Transcript;
use dalston_schema::{ArtifactKey, Job, JobId, JobStatus, Stage, Storage, TaskId, TenantId};
use dalston_test_postgres::TestDatabase;
use dalston_worker::{LoadEngineConfig, WorkerConfig};
use serde::Serialize;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test gives up on it; only ever waited out by a failure.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The surroundings of a test.
pub struct Harness {
    pub database: TestDatabase,
    pub storage: Storage,
    folder: TempDir,
}

/// A worker that runs in this process.
pub struct RunningWorker {
    pub shutdown: CancellationToken,
    ended: JoinHandle<anyhow::Result<()>>,
}

impl RunningWorker {
    /// Asks it to stop and waits until it has.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.ended().await;
    }

    /// Waits until it stops by itself.
    pub async fn ended(self) {
        tokio::time::timeout(DEADLINE, self.ended)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// What a test job asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    pub parameters: JobParameters,
    pub engine: &'static str,
    pub model: &'static str,
    pub transcribe: TranscribeRequest,
    pub max_attempts: i32,
    pub retention_days: i32,
}

/// A job for the load-test engine with these directives.
pub fn sleeping(directives: &str) -> Wish {
    Wish {
        parameters: JobParameters::default(),
        engine: "sleep",
        model: "sleep",
        transcribe: TranscribeRequest {
            prompt: Some(format!("sleep: {directives}")),
            ..TranscribeRequest::default()
        },
        max_attempts: 3,
        retention_days: 30,
    }
}

/// A job for the bundled Whisper.
pub fn whisper(word_timestamps: bool) -> Wish {
    Wish {
        engine: "whisper",
        model: "whisper-nano",
        transcribe: TranscribeRequest {
            beam_size: 1,
            word_timestamps,
            ..TranscribeRequest::default()
        },
        ..sleeping("")
    }
}

/// A recording of the bundled test speech.
pub fn utterance(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/audio/utterances/{name}.wav"))
}

/// A file of the bundled test dialogues.
pub fn dialogue(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/audio/dialogues/{file}"))
}

impl Harness {
    pub async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        Self {
            database: TestDatabase::create().await,
            storage: Storage::open(&StorageConfig::Folder(folder.path().join("objects"))).unwrap(),
            folder,
        }
    }

    /// Settings with which everything happens fast.
    pub fn config(&self) -> WorkerConfig {
        let path = |name| self.folder.path().join(name);
        let mut database = self.database.config.clone();
        database.application_name = "dalston-worker".to_owned();
        let mut config = WorkerConfig::new(
            database,
            StorageConfig::Folder(path("objects")),
            path("models"),
            path("scratch"),
        );
        config.device = dalston_engines::Device::Cpu;
        config.threads_per_model = NonZeroUsize::MIN;
        config.lease = Duration::from_secs(20);
        config.heartbeat_interval = Duration::from_millis(200);
        config.cancel_check_interval = Duration::from_millis(100);
        config.poll_interval = Duration::from_millis(200);
        config.model_scan_interval = Duration::from_millis(200);
        config.rescue_interval = Duration::from_millis(100);
        config.retention_interval = Duration::from_millis(100);
        config.sweep_interval = Duration::from_millis(200);
        config.shutdown_grace = Duration::from_secs(20);
        config.load_engine = Some(LoadEngineConfig {
            realtime_factor: 0.0,
            faults: true,
        });
        config
    }

    pub fn run(&self, config: WorkerConfig) -> RunningWorker {
        let shutdown = CancellationToken::new();
        RunningWorker {
            ended: tokio::spawn(dalston_worker::run(config, shutdown.clone())),
            shutdown,
        }
    }

    /// Stores a file and submits a job for it: prepare, transcribe, merge.
    pub async fn submit(&self, file: &Path, wish: &Wish) -> JobId {
        self.submit_bytes(std::fs::read(file).unwrap(), wish).await
    }

    pub async fn submit_bytes(&self, bytes: Vec<u8>, wish: &Wish) -> JobId {
        let id = JobId::generate();
        let key = ArtifactKey::original_audio(id, "wav");
        let size_bytes = bytes.len() as u64;
        self.storage.put(&key, bytes.into()).await.unwrap();
        let task = |stage: Stage, needs: Vec<TaskId>, request: serde_json::Value| NewTask {
            id: TaskId::generate(),
            stage,
            name: stage.to_string(),
            engine: String::new(),
            model: String::new(),
            needs,
            required: true,
            max_attempts: wish.max_attempts,
            chosen_because: None,
            request,
        };
        let prepare = task(Stage::Prepare, Vec::new(), json(&PrepareRequest::default()));
        let transcribe = NewTask {
            engine: wish.engine.to_owned(),
            model: wish.model.to_owned(),
            ..task(Stage::Transcribe, vec![prepare.id], json(&wish.transcribe))
        };
        let merge = task(Stage::Merge, vec![transcribe.id], json(&MergeRequest {}));
        let job = NewJob {
            id,
            tenant_id: TenantId::DEFAULT,
            created_by: None,
            display_name: "test.wav".to_owned(),
            parameters: wish.parameters.clone(),
            audio: UploadedAudio {
                key: key.to_string(),
                format: "wav".to_owned(),
                duration: size_bytes as f64 / 32_000.0,
                sample_rate: 16_000,
                channels: 1,
                bit_depth: Some(16),
                size_bytes,
            },
            priority: 100,
            retention_days: wish.retention_days,
            idempotency_key: None,
            idempotency_fingerprint: None,
            request_id: None,
            tasks: vec![prepare, transcribe, merge],
        };
        jobs::submit(&self.database.pool, &job, None).await.unwrap();
        id
    }

    pub async fn job(&self, job: JobId) -> Job {
        jobs::get_unscoped(&self.database.pool, job)
            .await
            .unwrap()
            .unwrap()
    }

    pub async fn task(&self, job: JobId, stage: Stage) -> Task {
        tasks::list(&self.database.pool, job)
            .await
            .unwrap()
            .into_iter()
            .find(|task| task.stage == stage)
            .unwrap()
    }

    /// Waits until a job has ended, and answers it.
    pub async fn end_of(&self, job: JobId) -> Job {
        eventually("the end of a job", async || {
            let job = self.job(job).await;
            job.status.is_final().then_some(job)
        })
        .await
    }

    /// Waits until a job has completed, and answers its transcript.
    pub async fn transcript(&self, job: JobId) -> Transcript {
        let ended = self.end_of(job).await;
        assert_eq!(ended.status, JobStatus::Completed, "{:?}", ended.error);
        jobs::transcript(&self.database.pool, job)
            .await
            .unwrap()
            .unwrap()
    }

    /// Waits until a task of a job runs.
    pub async fn until_running(&self, job: JobId, stage: Stage) {
        eventually("a running task", async || {
            let task = self.task(job, stage).await;
            (task.status == dalston_schema::TaskStatus::Running).then_some(())
        })
        .await;
    }

    /// What `prepare` answered.
    pub async fn prepared(&self, job: JobId) -> PrepareResponse {
        let finished = tasks::finished(&self.database.pool, job, Some(&["prepare"]))
            .await
            .unwrap();
        serde_json::from_str(finished[0].response.as_ref().unwrap().get()).unwrap()
    }

    /// One number from the database.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query)
            .fetch_one(&self.database.pool)
            .await
            .unwrap()
    }
}

fn json(value: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap()
}

/// Asks again until there is an answer.
pub async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = attempt().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A 16-bit WAV file of interleaved samples.
pub fn wav(sample_rate: u32, channels: u16, samples: &[i16]) -> Vec<u8> {
    let data: Vec<u8> = samples
        .iter()
        .flat_map(|sample| sample.to_le_bytes())
        .collect();
    let length = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
    let mut file = Vec::new();
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&length(36 + data.len()));
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0");
    file.extend_from_slice(&channels.to_le_bytes());
    file.extend_from_slice(&sample_rate.to_le_bytes());
    file.extend_from_slice(&(sample_rate * u32::from(channels) * 2).to_le_bytes());
    file.extend_from_slice(&(channels * 2).to_le_bytes());
    file.extend_from_slice(b"\x10\0data");
    file.extend_from_slice(&length(data.len()));
    file.extend_from_slice(&data);
    file
}
