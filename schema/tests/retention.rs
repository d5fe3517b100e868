//! Purging and trimming, with the clock set forward.

use std::time::Duration;

use dalston_schema::db::audit::{self, AuditFilter};
use dalston_schema::db::{events, jobs, maintenance, tasks};
use dalston_test_postgres::TestDatabase;
use serde_json::json;

use crate::jobs::finish_with_text;
use crate::plan::{read, simple_plan, submit};

#[tokio::test]
async fn a_job_past_its_retention_is_purged_and_its_row_stays() {
    let mut database = TestDatabase::create().await;
    let id = finish_with_text(&database.pool, "for thirty days").await;
    let said = json!({"segments": [{"text": "for thirty days"}]});
    events::append(&database.pool, id, events::SEGMENTS, &said)
        .await
        .unwrap();
    let unfinished = submit(&database.pool, simple_plan()).await;
    assert!(
        maintenance::purge_expired_jobs(&database.pool, 100, Duration::ZERO)
            .await
            .unwrap()
            .is_empty()
    );

    database.set_clock("2100-01-01 00:00Z").await;
    let pool = &database.pool;
    assert_eq!(
        maintenance::purge_expired_jobs(pool, 100, Duration::ZERO)
            .await
            .unwrap(),
        [id]
    );
    // Not confirmed: whoever was to delete the objects may have died.
    assert_eq!(
        maintenance::purge_expired_jobs(pool, 100, Duration::ZERO)
            .await
            .unwrap(),
        [id]
    );
    for _ in 0..2 {
        maintenance::confirm_purged(pool, id, 3).await.unwrap();
    }
    assert!(
        maintenance::purge_expired_jobs(pool, 100, Duration::ZERO)
            .await
            .unwrap()
            .is_empty()
    );

    let purged = read(pool, id).await;
    assert!(purged.purged_at.is_some() && purged.audio_key.is_none());
    assert!(jobs::transcript(pool, id).await.unwrap().is_none());
    let task = tasks::list(pool, id).await.unwrap()[0].id;
    assert!(tasks::payload(pool, id, task).await.unwrap().is_none());
    assert!(read(pool, unfinished).await.audio_key.is_some());
    let said = events::after(pool, id, 0, 100).await.unwrap();
    assert!(
        said.iter()
            .all(|event| event.event_type != events::SEGMENTS)
    );
    let filter = AuditFilter {
        action: Some("job.purged".to_owned()),
        limit: 10,
        ..AuditFilter::default()
    };
    let audited = audit::list(pool, &filter).await.unwrap();
    assert_eq!(audited.len(), 1);
    assert_eq!(audited[0].resource_id, id.to_string());
    assert_eq!(audited[0].detail, Some(json!({"artifacts_deleted": 3})));
}

#[tokio::test]
async fn a_job_kept_for_ever_is_never_purged() {
    let mut database = TestDatabase::create().await;
    let id = finish_with_text(&database.pool, "for ever").await;
    sqlx::query("update jobs set retention_days = -1, purge_after = null")
        .execute(&database.pool)
        .await
        .unwrap();
    database.set_clock("2999-01-01 00:00Z").await;
    assert!(
        maintenance::purge_expired_jobs(&database.pool, 100, Duration::ZERO)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        jobs::transcript(&database.pool, id)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn old_events_are_trimmed_but_not_those_of_unfinished_jobs() {
    let mut database = TestDatabase::create().await;
    let done = finish_with_text(&database.pool, "over").await;
    let waiting = submit(&database.pool, simple_plan()).await;
    database.set_clock("2100-01-01 00:00Z").await;
    let pool = &database.pool;
    let day = Duration::from_secs(86_400);
    assert!(maintenance::trim(pool, day, 1_000).await.unwrap() > 0);
    assert!(events::after(pool, done, 0, 10).await.unwrap().is_empty());
    assert_eq!(events::after(pool, waiting, 0, 10).await.unwrap().len(), 1);
    let queued: i64 = sqlx::query_scalar("select count(*) from pgmq.q_job_events")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(queued, 0);
}
