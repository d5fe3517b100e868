//! Jobs and workers for the tests: what the planner and a worker would hand in.

use dalston_schema::capability::{Capability, OfferedCapability};
use dalston_schema::db::tasks::{Completion, Wanted};
use dalston_schema::db::workers::NewWorker;
use dalston_schema::db::{PgPool, jobs, tasks, workers};
use dalston_schema::job::{NewJob, UploadedAudio};
use dalston_schema::task::{ClaimedTask, NewTask};
use dalston_schema::{Job, JobId, JobParameters, Stage, TaskId, TenantId, WorkerId};
use serde_json::{Value, json};

/// Everything a test's worker can run.
pub(crate) fn capabilities() -> Vec<Capability> {
    vec![
        Capability::without_model(Stage::Prepare),
        transcribe("nano"),
        transcribe("base"),
        Capability {
            stage: Stage::Diarize,
            engine: "pyannote".to_owned(),
            model: "segmentation".to_owned(),
        },
        Capability::without_model(Stage::Merge),
    ]
}

pub(crate) fn transcribe(model: &str) -> Capability {
    Capability {
        stage: Stage::Transcribe,
        engine: "whisper".to_owned(),
        model: model.to_owned(),
    }
}

pub(crate) fn offer(capability: Capability) -> OfferedCapability {
    OfferedCapability {
        languages: Some(vec!["en".to_owned()]),
        native_words: true,
        size_bytes: 1_000,
        ..OfferedCapability::new(capability)
    }
}

/// A task that needs these others.
pub(crate) fn task(capability: Capability, name: &str, needs: &[&NewTask]) -> NewTask {
    NewTask {
        id: TaskId::generate(),
        stage: capability.stage,
        name: name.to_owned(),
        engine: capability.engine,
        model: capability.model,
        needs: needs.iter().map(|need| need.id).collect(),
        required: true,
        max_attempts: 3,
        chosen_because: Some("the only one".to_owned()),
        request: json!({}),
    }
}

/// prepare → transcribe → merge.
pub(crate) fn simple_plan() -> Vec<NewTask> {
    let prepare = task(Capability::without_model(Stage::Prepare), "prepare", &[]);
    let transcribe = task(transcribe("nano"), "transcribe", &[&prepare]);
    let merge = task(
        Capability::without_model(Stage::Merge),
        "merge",
        &[&transcribe],
    );
    vec![prepare, transcribe, merge]
}

/// prepare → transcribe ×2 and an optional diarize → merge.
pub(crate) fn wide_plan() -> Vec<NewTask> {
    let prepare = task(Capability::without_model(Stage::Prepare), "prepare", &[]);
    let left = task(transcribe("nano"), "transcribe_ch0", &[&prepare]);
    let right = task(transcribe("base"), "transcribe_ch1", &[&prepare]);
    let mut diarize = task(capabilities()[3].clone(), "diarize", &[&prepare]);
    diarize.required = false;
    let merge = task(
        Capability::without_model(Stage::Merge),
        "merge",
        &[&left, &right, &diarize],
    );
    vec![prepare, left, right, diarize, merge]
}

/// A minute of audio for the default tenant.
pub(crate) fn job(tasks: Vec<NewTask>) -> NewJob {
    let id = JobId::generate();
    NewJob {
        id,
        tenant_id: TenantId::DEFAULT,
        created_by: None,
        display_name: "meeting.wav".to_owned(),
        parameters: JobParameters::default(),
        audio: UploadedAudio {
            key: format!("jobs/{id}/audio/original.wav"),
            format: "wav".to_owned(),
            duration: 60.0,
            sample_rate: 44_100,
            channels: 2,
            bit_depth: Some(16),
            size_bytes: 10_584_044,
        },
        priority: 100,
        retention_days: 30,
        idempotency_key: None,
        idempotency_fingerprint: None,
        request_id: None,
        tasks,
    }
}

pub(crate) async fn submit(pool: &PgPool, tasks: Vec<NewTask>) -> JobId {
    let new = job(tasks);
    assert_eq!(
        jobs::submit(pool, &new, None).await.unwrap(),
        jobs::Submitted::Created(new.id)
    );
    new.id
}

/// A registered worker.
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) wanted: Vec<Wanted>,
}

impl Worker {
    pub(crate) async fn register(pool: &PgPool, offered: &[Capability]) -> Self {
        let id = WorkerId::generate();
        let offers: Vec<_> = offered.iter().cloned().map(offer).collect();
        let ids = workers::register(pool, &new_worker(id, None), &offers)
            .await
            .unwrap();
        Self {
            id,
            wanted: ids
                .into_iter()
                .map(|capability_id| Wanted {
                    capability_id,
                    loaded: true,
                })
                .collect(),
        }
    }

    /// One that can run everything.
    pub(crate) async fn able(pool: &PgPool) -> Self {
        Self::register(pool, &capabilities()).await
    }

    pub(crate) async fn claim(&self, pool: &PgPool, limit: i32) -> Vec<ClaimedTask> {
        tasks::claim(pool, self.id, &self.wanted, limit, 30.0)
            .await
            .unwrap()
    }

    /// Claims exactly one task.
    pub(crate) async fn claim_one(&self, pool: &PgPool) -> ClaimedTask {
        let mut claimed = self.claim(pool, 1).await;
        assert_eq!(claimed.len(), 1, "one task to claim");
        claimed.remove(0)
    }

    /// Runs whatever can be run until nothing is ready.
    pub(crate) async fn work(&self, pool: &PgPool) -> Vec<String> {
        let mut done = Vec::new();
        loop {
            let claimed = self.claim(pool, 4).await;
            if claimed.is_empty() {
                return done;
            }
            for task in claimed {
                assert_eq!(
                    tasks::complete(pool, task.lease(), &answer(json!({"ok": true})))
                        .await
                        .unwrap(),
                    tasks::Outcome::Done
                );
                done.push(task.name);
            }
        }
    }
}

pub(crate) fn new_worker(id: WorkerId, identity: Option<&str>) -> NewWorker {
    NewWorker {
        id,
        hostname: "host".to_owned(),
        identity: identity.map(str::to_owned),
        version: "0.1.0".to_owned(),
        device: "cpu".to_owned(),
        slots: 4,
    }
}

/// A completion that brings nothing but a response.
pub(crate) fn answer(response: Value) -> Completion {
    Completion::answering(&response).unwrap()
}

pub(crate) async fn read(pool: &PgPool, id: JobId) -> Job {
    jobs::get_unscoped(pool, id).await.unwrap().unwrap()
}

/// The state of one task, by the name operators see.
pub(crate) async fn state(pool: &PgPool, job: JobId, name: &str) -> String {
    sqlx::query_scalar("select state from task_overview where job_id = $1 and name = $2")
        .bind(job)
        .bind(name)
        .fetch_one(pool)
        .await
        .unwrap()
}

/// Moves the end of every running task's lease into the past.
pub(crate) async fn expire_leases(pool: &PgPool) {
    sqlx::query("update running_tasks set lease_expires_at = dalston_now() - interval '1 s'")
        .execute(pool)
        .await
        .unwrap();
}
