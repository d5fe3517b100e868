//! Workers: registration, heartbeats and what they offer.

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use super::statement::{self, Statement};
use super::{DbError, PgPool, notify};
use crate::capability::{Capability, OfferedCapability};
use crate::ids::{JobId, WorkerId};

/// A worker process as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWorker {
    /// This run of the process.
    pub id: WorkerId,
    /// Host it runs on.
    pub hostname: String,
    /// What stays the same when this very worker is restarted, for example `host:/var/lib/dalston#0`. Tasks that an
    /// earlier run of the same identity still holds are released at once. `None` when there is no such thing.
    pub identity: Option<String>,
    /// Version of the program.
    pub version: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Tasks it runs at a time.
    pub slots: i32,
}

/// What a heartbeat says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerBeat {
    /// Models in memory now, with the bytes each takes, as far as known.
    pub loaded_models: Vec<(String, Option<u64>)>,
    /// Tasks running now.
    pub active_tasks: i32,
}

/// What a heartbeat answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeatAnswer {
    /// Carry on.
    Live,
    /// An operator asked this worker to stop claiming, finish and exit.
    Draining,
    /// The worker is not known (any more): register again.
    Unknown,
}

/// A worker as operators see it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Worker {
    /// This run of the process.
    pub id: WorkerId,
    /// Host it runs on.
    pub hostname: String,
    /// Version of the program.
    pub version: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Tasks it runs at a time.
    pub slots: i32,
    /// Tasks it said it was running at its last heartbeat.
    pub active_tasks: i32,
    /// Models it has in memory.
    pub loaded_models: Vec<String>,
    /// Bytes of memory each of `loaded_models` counts with; `None` where unknown.
    pub model_bytes: Vec<Option<i64>>,
    /// `live`, `draining` or `silent` (no heartbeat for a minute).
    pub status: String,
    /// When it registered.
    pub started_at: DateTime<Utc>,
    /// Last heartbeat.
    pub last_seen_at: DateTime<Utc>,
    /// What it can run.
    #[sqlx(json)]
    pub capabilities: Vec<OfferedCapability>,
}

/// Registers a worker with what it can run and answers the capabilities' row ids in the order given. Registering
/// again replaces what was said before. Tasks held by an earlier run of the same identity are released.
///
/// # Errors
/// Database trouble only.
pub async fn register(
    pool: &PgPool,
    worker: &NewWorker,
    offered: &[OfferedCapability],
) -> Result<Vec<i32>, DbError> {
    let (capability_ids, ready, jobs): (Vec<i32>, Vec<i32>, Vec<JobId>) = statement::rows(
        "select capability_ids, ready, jobs from register_worker($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(worker.id)
    .bind(&worker.hostname)
    .bind(&worker.identity)
    .bind(&worker.version)
    .bind(&worker.device)
    .bind(worker.slots)
    .bind(Json(offered))
    .one(pool)
    .await?;
    notify::announce(pool, &ready, &jobs);
    Ok(capability_ids)
}

/// Says that a worker is alive, and asks whether it should go on.
///
/// # Errors
/// Database trouble only.
pub async fn heartbeat(
    pool: &PgPool,
    worker: WorkerId,
    beat: &WorkerBeat,
) -> Result<BeatAnswer, DbError> {
    let (models, bytes): (Vec<&str>, Vec<Option<i64>>) = beat
        .loaded_models
        .iter()
        .map(|(model, bytes)| {
            (
                model.as_str(),
                bytes.map(|n| i64::try_from(n).unwrap_or(i64::MAX)),
            )
        })
        .unzip();
    let draining: Option<bool> = statement::values("select worker_heartbeat($1, $2, $3, $4)")
        .bind(worker)
        .bind(models)
        .bind(bytes)
        .bind(beat.active_tasks)
        .one(pool)
        .await?;
    Ok(match draining {
        Some(true) => BeatAnswer::Draining,
        Some(false) => BeatAnswer::Live,
        None => BeatAnswer::Unknown,
    })
}

/// Asks a worker to stop claiming and exit when its tasks are done; it learns at its next heartbeat. False when
/// there is no such worker.
///
/// # Errors
/// Database trouble only.
pub async fn drain(pool: &PgPool, worker: WorkerId) -> Result<bool, DbError> {
    statement::values("select drain_worker($1)")
        .bind(worker)
        .one(pool)
        .await
}

/// Forgets a worker that stops in good order. Tasks it still holds are given back without counting the attempt.
///
/// # Errors
/// Database trouble only.
pub async fn deregister(pool: &PgPool, worker: WorkerId) -> Result<(), DbError> {
    let (ready, jobs): (Vec<i32>, Vec<JobId>) =
        statement::rows("select ready, jobs from deregister_worker($1)")
            .bind(worker)
            .one(pool)
            .await?;
    notify::announce(pool, &ready, &jobs);
    Ok(())
}

/// Every known worker, oldest first.
///
/// # Errors
/// Database trouble only.
pub async fn list(pool: &PgPool) -> Result<Vec<Worker>, DbError> {
    statement::rows(
        "select id, hostname, version, device, slots, active_tasks, loaded_models, model_bytes, status, started_at, last_seen_at,
                capabilities
           from worker_details order by started_at, id",
    )
    .all(pool)
    .await
}

/// What the live workers can run between them, one row per capability, for the planner.
///
/// # Errors
/// Database trouble only.
pub async fn offered(pool: &PgPool) -> Result<Vec<OfferedCapability>, DbError> {
    let rows: Vec<Json<OfferedCapability>> =
        statement::values("select offer from offered_capabilities order by stage, engine, model")
            .all(pool)
            .await?;
    Ok(rows.into_iter().map(|Json(offer)| offer).collect())
}

/// The row id of a capability, made if it is new.
///
/// # Errors
/// Database trouble only.
pub async fn capability_id(pool: &PgPool, capability: &Capability) -> Result<i32, DbError> {
    statement::values("select capability_id($1, $2, $3)")
        .bind(capability.stage.as_str())
        .bind(&capability.engine)
        .bind(&capability.model)
        .one(pool)
        .await
}
