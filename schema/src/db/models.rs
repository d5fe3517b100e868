//! The registry of models: what was asked for, how far pulls are, what workers and the object store have. The catalogue
//! is not in it; a model that nobody touched and no worker has is not known here.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::types::Json;

use super::statement::{self, Statement};
use super::{DbError, PgPool};
use crate::capability::CapabilityFilter;
use crate::catalogue::{Entry, Precision};
use crate::ids::WorkerId;

/// A model on a worker's disk, as the worker announces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AnnouncedModel {
    /// Model id.
    pub model: String,
    /// Engine that runs it.
    pub engine: String,
    /// Stage it serves.
    pub stage: String,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// It is a part that other models of its stage need.
    pub component: bool,
    /// Its folder.
    pub folder: String,
    /// When it was put there, by the worker's clock.
    pub since: DateTime<Utc>,
}

/// A model as the registry has it.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct RegisteredModel {
    /// Model id.
    pub id: String,
    /// Engine that runs it; `None` until known.
    pub engine: Option<String>,
    /// Stage it serves; `None` until known.
    pub stage: Option<String>,
    /// `not_downloaded`, `downloading`, `ready` or `failed`.
    pub status: String,
    /// Workers are deleting it.
    pub removing: bool,
    /// Live workers that have it.
    pub workers: i64,
    /// Bytes of its files; `None` when no worker has it.
    pub size_bytes: Option<i64>,
    /// It is a part that other models need; `None` when no worker has it.
    pub component: Option<bool>,
    /// Its folder on a worker that has it.
    pub folder: Option<String>,
    /// Bytes of its last pull.
    pub expected_bytes: Option<i64>,
    /// Bytes of that pull that have arrived.
    pub downloaded_bytes: Option<i64>,
    /// When that was last said.
    pub progress_at: Option<DateTime<Utc>>,
    /// When it was last pulled, or put on a worker.
    pub downloaded_at: Option<DateTime<Utc>>,
    /// Why its last pull failed.
    pub error: Option<String>,
    /// The object store has it.
    pub stored: bool,
    /// What users said of it, by field.
    #[sqlx(json)]
    pub overrides: Value,
    /// What the hub says of it.
    #[sqlx(json)]
    pub hub: Value,
    /// When it was last in use, to the hour.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was first touched.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// What came of asking for a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullOutcome {
    /// A worker has the model.
    Ready,
    /// Somebody asked before.
    InProgress,
    /// It is queued now.
    Started,
}

/// What came of asking for a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveOutcome {
    /// There is no such model.
    Missing,
    /// Unfinished jobs need it.
    Used,
    /// Workers will delete it.
    Removed,
}

/// A pull that a worker has taken.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct ClaimedPull {
    /// Model id, or another name of one.
    pub id: String,
    /// Fencing token; carried by everything said about the pull.
    pub transfer: i64,
    /// Fetch it although it is there.
    pub force: bool,
    /// Its manifest, when the object store has it.
    pub stored: Option<Json<Value>>,
}

/// A pull that has ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledModel {
    /// Engine that runs it.
    pub engine: String,
    /// Stage it serves.
    pub stage: String,
    /// Bytes of its files.
    pub size_bytes: u64,
}

const COLUMNS: &str = "select id, engine, stage, status, removing, workers, size_bytes, component, folder, expected_bytes, \
     downloaded_bytes, progress_at, downloaded_at, error, stored, overrides, hub, last_used_at, created_at, updated_at \
     from model_registry";

/// Every model of the registry, in order of id.
///
/// # Errors
/// Database trouble only.
pub async fn list(pool: &PgPool) -> Result<Vec<RegisteredModel>, DbError> {
    statement::rows(sqlx::AssertSqlSafe(format!("{COLUMNS} order by id")))
        .all(pool)
        .await
}

/// One model of the registry.
///
/// # Errors
/// Database trouble only.
pub async fn get(pool: &PgPool, id: &str) -> Result<Option<RegisteredModel>, DbError> {
    statement::rows(sqlx::AssertSqlSafe(format!("{COLUMNS} where id = $1")))
        .bind(id.to_owned())
        .optional(pool)
        .await
}

/// Says which models are on a worker's disk. False when the worker is not known (any more).
///
/// # Errors
/// Database trouble only.
pub async fn announce(
    pool: &PgPool,
    worker: WorkerId,
    models: &[AnnouncedModel],
) -> Result<bool, DbError> {
    statement::values("select announce_models($1, $2)")
        .bind(worker)
        .bind(Json(models))
        .one(pool)
        .await
}

/// Queues a pull. `expected_bytes` is what the catalogue says of its size.
///
/// # Errors
/// Database trouble only.
pub async fn request_pull(
    pool: &PgPool,
    id: &str,
    kind: Option<(&str, &str)>,
    expected_bytes: Option<u64>,
    force: bool,
) -> Result<PullOutcome, DbError> {
    let (engine, stage) = kind.unzip();
    let outcome: String = statement::values("select request_model_pull($1, $2, $3, $4, $5)")
        .bind(id)
        .bind(engine)
        .bind(stage)
        .bind(expected_bytes.map(to_bigint))
        .bind(force)
        .one(pool)
        .await?;
    Ok(match outcome.as_str() {
        "ready" => PullOutcome::Ready,
        "in_progress" => PullOutcome::InProgress,
        _ => PullOutcome::Started,
    })
}

/// Models that tasks wait for while no worker offers them.
///
/// # Errors
/// Database trouble only.
pub async fn needed(pool: &PgPool) -> Result<Vec<String>, DbError> {
    statement::values("select * from needed_models()")
        .all(pool)
        .await
}

/// Queues the pull of a model that tasks wait for. False when it is under way, or ended less than `pause` ago.
///
/// # Errors
/// Database trouble only.
pub async fn pull_needed(pool: &PgPool, entry: &Entry, pause: Duration) -> Result<bool, DbError> {
    statement::values("select pull_needed_model($1, $2, $3, $4, $5)")
        .bind(&entry.id)
        .bind(&entry.engine)
        .bind(entry.stage.as_str())
        .bind(to_bigint(entry.size_bytes(Precision::default())))
        .bind(pause.as_secs_f64())
        .one(pool)
        .await
}

/// Takes the pull that has waited longest, under a lease; of those a worker would offer that offers only `wanted`, or of
/// all when that is empty.
///
/// # Errors
/// Database trouble only.
pub async fn claim_pull(
    pool: &PgPool,
    worker: WorkerId,
    wanted: &[CapabilityFilter],
    lease_seconds: f64,
) -> Result<Option<ClaimedPull>, DbError> {
    let stages: Vec<&str> = wanted.iter().map(|filter| filter.stage.as_str()).collect();
    let engines: Vec<Option<&str>> = wanted.iter().map(|f| f.engine.as_deref()).collect();
    let models: Vec<Option<&str>> = wanted.iter().map(|f| f.model.as_deref()).collect();
    statement::rows("select id, transfer, force, stored from claim_model_pull($1, $2, $3, $4, $5)")
        .bind(worker)
        .bind(lease_seconds)
        .bind(stages)
        .bind(engines)
        .bind(models)
        .optional(pool)
        .await
}

/// Says how far a pull is and keeps it. False when it is to stop: it is no longer this worker's, or no longer wanted.
///
/// # Errors
/// Database trouble only.
pub async fn extend_pull(
    pool: &PgPool,
    pull: &ClaimedPull,
    done_bytes: u64,
    total_bytes: u64,
    lease_seconds: f64,
) -> Result<bool, DbError> {
    statement::values("select extend_model_pull($1, $2, $3, $4, $5)")
        .bind(&pull.id)
        .bind(pull.transfer)
        .bind(to_bigint(done_bytes))
        .bind(to_bigint(total_bytes))
        .bind(lease_seconds)
        .one(pool)
        .await
}

/// Ends a pull, well or with the reason it failed. False when it was no longer this worker's.
///
/// # Errors
/// Database trouble only.
pub async fn end_pull(
    pool: &PgPool,
    pull: &ClaimedPull,
    result: Result<&PulledModel, &str>,
) -> Result<bool, DbError> {
    let pulled = result.ok();
    statement::values("select end_model_pull($1, $2, $3, $4, $5, $6)")
        .bind(&pull.id)
        .bind(pull.transfer)
        .bind(pulled.map(|pulled| pulled.engine.as_str()))
        .bind(pulled.map(|pulled| pulled.stage.as_str()))
        .bind(pulled.map(|pulled| to_bigint(pulled.size_bytes)))
        .bind(result.err())
        .one(pool)
        .await
}

/// Leaves a pull to another worker. False when it was no longer this worker's.
///
/// # Errors
/// Database trouble only.
pub async fn give_back_pull(pool: &PgPool, pull: &ClaimedPull) -> Result<bool, DbError> {
    statement::values("select give_back_model_pull($1, $2)")
        .bind(&pull.id)
        .bind(pull.transfer)
        .one(pool)
        .await
}

/// Takes the right to copy a model of this worker's to the object store; `None` when the store has it or another worker
/// is at it.
///
/// # Errors
/// Database trouble only.
pub async fn claim_copy(
    pool: &PgPool,
    worker: WorkerId,
    model: &AnnouncedModel,
    lease_seconds: f64,
) -> Result<Option<i64>, DbError> {
    statement::values("select claim_model_copy($1, $2, $3, $4, $5)")
        .bind(worker)
        .bind(&model.model)
        .bind(&model.engine)
        .bind(&model.stage)
        .bind(lease_seconds)
        .one(pool)
        .await
}

/// Ends a copy to the object store: with the manifest when all files are there, with `None` to give it up. False when it
/// was no longer this worker's.
///
/// # Errors
/// Database trouble only.
pub async fn end_copy(
    pool: &PgPool,
    model: &str,
    transfer: i64,
    manifest: Option<&Value>,
) -> Result<bool, DbError> {
    statement::values("select end_model_copy($1, $2, $3)")
        .bind(model)
        .bind(transfer)
        .bind(manifest.map(Json))
        .one(pool)
        .await
}

/// Models whose files workers are to delete.
///
/// # Errors
/// Database trouble only.
pub async fn to_remove(pool: &PgPool) -> Result<Vec<String>, DbError> {
    statement::values("select id from models where removing order by id")
        .all(pool)
        .await
}

/// Models that the object store has, with their manifests.
///
/// # Errors
/// Database trouble only.
pub async fn in_object_store(pool: &PgPool) -> Result<Vec<(String, Value)>, DbError> {
    let rows: Vec<(String, Json<Value>)> = statement::rows(
        "select id, stored from models where stored is not null and not removing order by id",
    )
    .all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, Json(manifest))| (id, manifest))
        .collect())
}

/// Has workers delete a model's files; with `purge` what users and hub said of it is forgotten too.
///
/// # Errors
/// Database trouble only.
pub async fn remove(pool: &PgPool, id: &str, purge: bool) -> Result<RemoveOutcome, DbError> {
    let outcome: String = statement::values("select remove_model($1, $2)")
        .bind(id)
        .bind(purge)
        .one(pool)
        .await?;
    Ok(match outcome.as_str() {
        "missing" => RemoveOutcome::Missing,
        "used" => RemoveOutcome::Used,
        _ => RemoveOutcome::Removed,
    })
}

/// Adds to what users say of a model.
///
/// # Errors
/// Database trouble only.
pub async fn edit(pool: &PgPool, id: &str, overrides: &Value) -> Result<(), DbError> {
    statement::run(
        statement::plain("select edit_model($1, $2)")
            .bind(id)
            .bind(Json(overrides)),
        pool,
    )
    .await
}

/// Remembers what the hub says of a model, and engine and stage that its files are for.
///
/// # Errors
/// Database trouble only.
pub async fn describe(
    pool: &PgPool,
    id: &str,
    kind: Option<(&str, &str)>,
    hub: &Value,
) -> Result<(), DbError> {
    let (engine, stage) = kind.unzip();
    statement::run(
        statement::plain("select describe_model($1, $2, $3, $4)")
            .bind(id)
            .bind(engine)
            .bind(stage)
            .bind(Json(hub)),
        pool,
    )
    .await
}

/// Brings the registry in line with what the workers have; answers how many rows changed and how many did not.
///
/// # Errors
/// Database trouble only.
pub async fn sync(pool: &PgPool) -> Result<(i32, i32), DbError> {
    statement::rows("select updated, unchanged from sync_models()")
        .one(pool)
        .await
}

fn to_bigint(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
