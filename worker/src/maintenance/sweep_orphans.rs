//! Removes audio whose job was never recorded: audio is written before the row that points at it, so a crash between the
//! two leaves objects without a job.

use chrono::{DateTime, Utc};
use dalston_schema::db::{self, jobs, maintenance};
use dalston_schema::{ArtifactKey, JobId};

use super::Rest;
use crate::environment::Environment;

/// Younger audio may belong to an upload that is still running, hours.
const YOUNGEST_HOURS: i64 = 24;
/// Jobs looked up in one query.
const BATCH: usize = 1_000;

pub async fn round(environment: &Environment) -> anyhow::Result<Rest> {
    // Listing a whole bucket costs money: one process does it for all.
    let Some(_turn) = maintenance::take_turn(&environment.pool, "sweep_orphans").await? else {
        return Ok(Rest::Done);
    };
    let now = db::now(&environment.pool).await?;
    let stored = environment.storage.list_job_ids().await?;
    let old: Vec<JobId> = stored.into_iter().filter(|job| is_old(*job, now)).collect();
    for batch in old.chunks(BATCH) {
        let known = jobs::existing(&environment.pool, batch).await?;
        for job in batch.iter().filter(|job| !known.contains(job)) {
            let objects = environment
                .storage
                .delete_prefix(&ArtifactKey::job_prefix(*job))
                .await?;
            tracing::info!(job.id = %job, objects, "audio of {job}, which is no job, was removed");
        }
    }
    Ok(Rest::Done)
}

/// Whether the id was made more than a day ago, by the time in it. An id without a time is never old.
fn is_old(job: JobId, now: DateTime<Utc>) -> bool {
    let made = job
        .0
        .get_timestamp()
        .and_then(|time| i64::try_from(time.to_unix().0).ok())
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    made.is_some_and(|made| now - made > chrono::Duration::hours(YOUNGEST_HOURS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_made_more_than_a_day_ago_are_old() {
        let job = JobId::generate();
        let now = Utc::now();
        assert!(!is_old(job, now));
        assert!(!is_old(job, now + chrono::Duration::hours(23)));
        assert!(is_old(job, now + chrono::Duration::hours(25)));
    }

    #[test]
    fn an_id_without_a_time_is_never_old() {
        let job = JobId(Default::default());
        assert!(!is_old(job, Utc::now()));
    }
}
