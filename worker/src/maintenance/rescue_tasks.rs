//! Takes tasks away from workers whose leases ran out, makes tasks ready whose backoff has passed, and keeps the
//! fairness clock moving.

use dalston_schema::db::maintenance;
use dalston_schema::measure::Measure;

use super::Rest;
use crate::environment::Environment;

/// Most tasks of one round.
const LIMIT: i32 = 500;

pub async fn round(environment: &Environment) -> anyhow::Result<Rest> {
    let pool = &environment.pool;
    let rescued = maintenance::rescue_tasks(pool, LIMIT).await?;
    if rescued.retried > 0 || rescued.failed > 0 {
        tracing::warn!(
            retried = rescued.retried,
            failed = rescued.failed,
            "{} tasks were taken from workers that stopped answering; {} of them are given up",
            rescued.retried + rescued.failed,
            rescued.failed
        );
        let taken = i64::from(rescued.retried + rescued.failed);
        environment
            .measures
            .count(Measure::TasksTimedOut, &[], taken);
    }
    let promoted = maintenance::promote_scheduled(pool, LIMIT).await?;
    maintenance::advance_fair_clock(pool).await?;
    Ok(
        if promoted >= LIMIT || rescued.retried + rescued.failed >= LIMIT {
            Rest::More
        } else {
            Rest::Done
        },
    )
}
