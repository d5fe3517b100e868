//! Removes audio whose job was never recorded: audio is written before the row that points at it, so a crash between the
//! two leaves objects without a job. Only in a store that is marked as this installation's.

use chrono::{DateTime, Utc};
use dalston_schema::db::{self, jobs, maintenance};
use dalston_schema::storage::MARK;
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
    let orphans = orphans(environment).await?;
    if !is_ours(environment, orphans.is_empty()).await? {
        return Ok(Rest::Done);
    }
    for job in orphans {
        let prefix = ArtifactKey::job_prefix(job);
        match environment.storage.delete_prefix(&prefix).await {
            Ok(objects) => {
                tracing::info!(job.id = %job, objects, "audio of {job}, which is no job, was removed");
            }
            Err(error) => {
                tracing::warn!(job.id = %job, %error, "audio of {job}, which is no job, could not be removed");
            }
        }
    }
    Ok(Rest::Done)
}

/// The old ids in the object store that are no jobs here.
async fn orphans(environment: &Environment) -> anyhow::Result<Vec<JobId>> {
    let now = db::now(&environment.pool).await?;
    let stored = environment.storage.list_job_ids().await?;
    let old: Vec<JobId> = stored.into_iter().filter(|job| is_old(*job, now)).collect();
    let mut orphans = Vec::new();
    for batch in old.chunks(BATCH) {
        let known = jobs::existing(&environment.pool, batch).await?;
        orphans.extend(batch.iter().filter(|job| !known.contains(job)));
    }
    Ok(orphans)
}

/// Whether the object store is this installation's: what is no job here may well be one of another database. A store
/// without a mark is marked when there is nothing strange in it.
async fn is_ours(environment: &Environment, without_orphans: bool) -> anyhow::Result<bool> {
    let installation = maintenance::installation(&environment.pool).await?;
    match environment.storage.owner().await? {
        Some(owner) if owner == installation.to_string() => Ok(true),
        None if without_orphans => {
            environment.storage.mark(installation).await?;
            Ok(true)
        }
        owner => {
            tracing::warn!(
                owner,
                "the object store is not marked as this installation's and nothing in it is swept; if no other \
                 installation uses it, write {installation} into its object {MARK}"
            );
            Ok(false)
        }
    }
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
