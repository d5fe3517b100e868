//! Deletes what has grown old in the logs.

use std::time::Duration;

use dalston_schema::db::maintenance;

use super::Rest;
use crate::environment::Environment;

/// How long events of finished jobs and unread messages are kept.
const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most rows of one kind in one round.
const LIMIT: i32 = 5_000;

pub async fn round(environment: &Environment) -> anyhow::Result<Rest> {
    let trimmed = maintenance::trim(&environment.pool, KEEP, LIMIT).await?;
    Ok(if trimmed >= i64::from(LIMIT) {
        Rest::More
    } else {
        Rest::Done
    })
}
