//! Purges jobs past their retention: rows first mark the job as purged and hand it out, then its objects go, then that
//! is confirmed. A round that dies in between leaves jobs that the next round is handed again.

use dalston_schema::db::maintenance;
use dalston_schema::{ArtifactKey, JobId};

use super::Rest;
use crate::environment::Environment;

/// Most jobs of one round.
const LIMIT: i32 = 100;

pub async fn round(environment: &Environment) -> anyhow::Result<Rest> {
    // Who waited for a job that is not kept has until the next round to read its transcript.
    let grace = environment.config.retention_interval;
    let jobs = maintenance::purge_expired_jobs(&environment.pool, LIMIT, grace).await?;
    let count = jobs.len();
    for job in jobs {
        // One that cannot be purged now keeps no other from it.
        match purge(environment, job).await {
            Ok(objects) => {
                tracing::info!(job.id = %job, objects, "job {job} was purged by its retention");
            }
            Err(error) => {
                tracing::warn!(job.id = %job, %error, "job {job} could not be purged; trying again next time");
            }
        }
    }
    Ok(if count >= LIMIT as usize {
        Rest::More
    } else {
        Rest::Done
    })
}

/// Deletes the objects of a job and confirms it; answers how many there were.
async fn purge(environment: &Environment, job: JobId) -> anyhow::Result<u64> {
    let objects = environment
        .storage
        .delete_prefix(&ArtifactKey::job_prefix(job))
        .await?;
    maintenance::confirm_purged(&environment.pool, job, objects).await?;
    Ok(objects)
}
