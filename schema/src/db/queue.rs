//! How much work waits, for metrics, status pages and "is anyone able to run this".

use super::statement::{self, Statement};
use super::{DbError, PgPool};

/// One capability's queue, from the view `queue_depth`.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct QueueDepth {
    /// Row id of the capability.
    pub capability_id: i32,
    /// Stage.
    pub stage: String,
    /// Engine; empty for stages without a model.
    pub engine: String,
    /// Model; empty for stages without a model.
    pub model: String,
    /// Tasks that may be claimed.
    pub ready: i64,
    /// Tasks waiting for their next attempt.
    pub scheduled: i64,
    /// Tasks waiting for their tenant's turn.
    pub held: i64,
    /// Tasks being run.
    pub running: i64,
    /// Seconds the oldest ready task has waited; `None` when none is ready.
    pub oldest_wait_seconds: Option<f64>,
    /// Live workers that can run it.
    pub workers: i64,
}

/// The queues that have work or workers.
///
/// # Errors
/// Database trouble only.
pub async fn depths(pool: &PgPool) -> Result<Vec<QueueDepth>, DbError> {
    statement::rows(
        "select capability_id, stage, engine, model, ready, scheduled, held, running, oldest_wait_seconds, workers
           from queue_depth order by stage, engine, model",
    )
    .all(pool)
    .await
}

/// Whether the database answers; what a health check asks.
///
/// # Errors
/// Database trouble.
pub async fn ping(pool: &PgPool) -> Result<(), DbError> {
    statement::run(statement::plain("select 1"), pool).await
}
