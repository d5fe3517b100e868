//! Jobs of no-op tasks.

use anyhow::Result;
use dalston_schema::capability::{Capability, OfferedCapability};
use dalston_schema::db::tasks::Wanted;
use dalston_schema::db::workers::NewWorker;
use dalston_schema::db::{PgPool, workers};
use dalston_schema::job::{NewJob, UploadedAudio};
use dalston_schema::task::NewTask;
use dalston_schema::{JobId, JobParameters, Stage, TaskId, TenantId, WorkerId};
use serde_json::json;

pub(crate) fn transcribe() -> Capability {
    Capability {
        stage: Stage::Transcribe,
        engine: "whisper".to_owned(),
        model: "no-op".to_owned(),
    }
}

fn task(capability: Capability, name: String, needs: Vec<TaskId>) -> NewTask {
    NewTask {
        id: TaskId::generate(),
        stage: capability.stage,
        name,
        engine: capability.engine,
        model: capability.model,
        needs,
        required: true,
        max_attempts: 3,
        chosen_because: None,
        request: json!({}),
    }
}

/// A job of `tasks` tasks: one; a chain of prepare, transcribe, merge; or a long file, whose chunks lie between
/// prepare and merge.
pub(crate) fn job(tasks: usize) -> NewJob {
    let id = JobId::generate();
    let mut plan = Vec::with_capacity(tasks);
    if tasks == 1 {
        plan.push(task(transcribe(), "transcribe".to_owned(), Vec::new()));
    } else {
        let prepare = task(
            Capability::without_model(Stage::Prepare),
            "prepare".to_owned(),
            Vec::new(),
        );
        let first = prepare.id;
        plan.push(prepare);
        for chunk in 0..tasks - 2 {
            plan.push(task(
                transcribe(),
                format!("transcribe_c{chunk:03}"),
                vec![first],
            ));
        }
        let chunks = plan[1..].iter().map(|task| task.id).collect();
        plan.push(task(
            Capability::without_model(Stage::Merge),
            "merge".to_owned(),
            chunks,
        ));
    }
    NewJob {
        id,
        tenant_id: TenantId::DEFAULT,
        created_by: None,
        display_name: "no-op".to_owned(),
        parameters: JobParameters::default(),
        audio: UploadedAudio {
            key: format!("jobs/{id}/audio/original.wav"),
            format: "wav".to_owned(),
            duration: 60.0,
            sample_rate: 16_000,
            channels: 1,
            bit_depth: Some(16),
            size_bytes: 1_920_044,
        },
        priority: 100,
        retention_days: 30,
        idempotency_key: None,
        idempotency_fingerprint: None,
        request_id: None,
        tasks: plan,
    }
}

/// A worker that can run every stage of [`job`].
pub(crate) async fn worker(pool: &PgPool) -> Result<(WorkerId, Vec<Wanted>)> {
    let id = WorkerId::generate();
    let new = NewWorker {
        id,
        hostname: "bench".to_owned(),
        identity: None,
        version: "0".to_owned(),
        device: "cpu".to_owned(),
        slots: 1,
    };
    let offers: Vec<OfferedCapability> = [
        Capability::without_model(Stage::Prepare),
        transcribe(),
        Capability::without_model(Stage::Merge),
    ]
    .into_iter()
    .map(|capability| OfferedCapability {
        native_words: true,
        ..OfferedCapability::new(capability)
    })
    .collect();
    let ids = workers::register(pool, &new, &offers).await?;
    let wanted = ids
        .into_iter()
        .map(|capability_id| Wanted {
            capability_id,
            loaded: true,
        })
        .collect();
    Ok((id, wanted))
}
