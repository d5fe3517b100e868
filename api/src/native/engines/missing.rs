//! What tasks wait for and no live worker can do, and how it comes.

use dalston_schema::catalogue;
use dalston_schema::db::models::{self, RegisteredModel};
use dalston_schema::db::queue::{self, QueueDepth};
use dalston_schema::db::{DbError, PgPool};
use poem_openapi::Object;

use super::some;

/// Something that tasks wait for and no live worker can do.
#[derive(Debug, Object)]
pub struct MissingCapability {
    /// Stage.
    stage: String,
    /// Engine; null for a stage without a model.
    engine_id: Option<String>,
    /// Model; null for a stage without a model.
    model_id: Option<String>,
    /// Tasks that wait for it.
    waiting_tasks: i64,
    /// Seconds the oldest has waited.
    oldest_wait_seconds: Option<f64>,
    /// How a pull of the model stands: `not_downloaded`, `downloading`, `failed`, or `ready` when the workers that have it
    /// take no tasks; null for a stage without a model.
    model_status: Option<String>,
    /// Bytes of it that have arrived.
    downloaded_bytes: Option<i64>,
    /// Bytes it has.
    expected_total_bytes: Option<i64>,
    /// Why its last pull failed.
    pull_error: Option<String>,
    /// How to add it.
    remedy: String,
}

/// Everything that is missing now. `offline`: models must not use the network.
///
/// # Errors
/// Database trouble only.
pub async fn read(pool: &PgPool, offline: bool) -> Result<Vec<MissingCapability>, DbError> {
    let depths = queue::depths(pool).await?;
    let registered = models::list(pool).await?;
    let missing = depths.iter().filter(|queue| waits_in_vain(queue));
    Ok(missing
        .map(|queue| {
            let row = registered.iter().find(|row| row.id == queue.model);
            missing_capability(queue, row, offline)
        })
        .collect())
}

/// Whether a queue has work and nobody to do it.
fn waits_in_vain(queue: &QueueDepth) -> bool {
    queue.workers == 0 && queue.ready + queue.scheduled + queue.held > 0
}

/// What such a queue lacks; `row` is its model in the registry.
fn missing_capability(
    queue: &QueueDepth,
    row: Option<&RegisteredModel>,
    offline: bool,
) -> MissingCapability {
    let pulled = row.filter(|row| row.status == "downloading");
    MissingCapability {
        stage: queue.stage.clone(),
        engine_id: some(&queue.engine),
        model_id: some(&queue.model),
        waiting_tasks: queue.ready + queue.scheduled + queue.held,
        oldest_wait_seconds: queue.oldest_wait_seconds,
        model_status: some(&queue.model).map(|_| {
            row.map_or("not_downloaded", |row| row.status.as_str())
                .to_owned()
        }),
        downloaded_bytes: pulled.and_then(|row| row.downloaded_bytes),
        expected_total_bytes: pulled.and_then(|row| row.expected_bytes),
        pull_error: row.and_then(|row| row.error.clone()),
        remedy: if pulled.is_some() {
            format!(
                "{} is being pulled; what waits goes on when it is there. Nothing arrives? Start a worker that may offer it.",
                queue.model
            )
        } else {
            remedy(queue, offline)
        },
    }
}

fn remedy(queue: &QueueDepth, offline: bool) -> String {
    let QueueDepth { stage, model, .. } = queue;
    match catalogue::entry(model) {
        _ if model.is_empty() => {
            format!("Start a worker that offers {stage}: `dalston worker --capabilities {stage}`")
        }
        Some(entry) if !entry.bundled && offline => format!(
            "This server is offline, so nothing is pulled: import {model} on a worker, or start a worker that has it"
        ),
        Some(entry) if !entry.bundled => format!(
            "Pull the model with `dalston models pull {model}` (or POST /v1/models/{model}/pull), or start a worker that has it"
        ),
        Some(_) => format!(
            "{model} comes with Dalston: start a worker that offers {stage}, for example `dalston worker --capabilities {stage}`"
        ),
        None => format!(
            "Import or pull {model} on a worker, or start the worker that had it; `dalston models list` names what is there"
        ),
    }
}
