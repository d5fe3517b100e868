//! Forgets workers that have been silent for long, so that the list of workers tells who is there.

use std::time::Duration;

use dalston_schema::db::maintenance;

use super::Rest;
use crate::environment::Environment;

/// Silence after which a worker is forgotten. Long before, its tasks have been rescued and its offer does not count.
const SILENCE: Duration = Duration::from_secs(10 * 60);

pub async fn round(environment: &Environment) -> anyhow::Result<Rest> {
    let silence = SILENCE.max(environment.config.lease * 4);
    let forgotten = maintenance::forget_workers(&environment.pool, silence).await?;
    if forgotten > 0 {
        tracing::info!(forgotten, "{forgotten} silent workers were forgotten");
    }
    Ok(Rest::Done)
}
