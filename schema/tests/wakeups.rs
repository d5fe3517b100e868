//! Wake-ups across connections, and the events that progress streams replay.

use std::time::Duration;

use dalston_schema::db::notify::{Wakeup, Wakeups};
use dalston_schema::db::{events, tasks};
use dalston_test_postgres::TestDatabase;
use serde_json::json;

use crate::plan::{Worker, answer, simple_plan, submit};

const LONG: Duration = Duration::from_secs(20);

/// Waits until the listener is connected, which it says by asking for a look at everything.
async fn connected<T: Ord + std::str::FromStr + Send + std::fmt::Debug + PartialEq + 'static>(
    wakeups: &mut Wakeups<T>,
) {
    assert_eq!(wakeups.wait(LONG).await, Wakeup::Rescan);
}

#[tokio::test]
async fn a_submitted_job_wakes_whoever_waits_for_its_first_capability() {
    let database = TestDatabase::create().await;
    let worker = Worker::able(&database.pool).await;
    let mut wakeups = Wakeups::for_tasks(&database.config);
    connected(&mut wakeups).await;
    submit(&database.pool, simple_plan()).await;
    let prepare = worker.wanted[0].capability_id;
    assert_eq!(wakeups.wait(LONG).await, Wakeup::Changed(vec![prepare]));
    assert_eq!(
        wakeups.wait(Duration::from_millis(1)).await,
        Wakeup::Timeout
    );
}

#[tokio::test]
async fn a_waiter_learns_of_its_jobs_end() {
    let database = TestDatabase::create().await;
    let worker = Worker::able(&database.pool).await;
    let mut wakeups = Wakeups::for_jobs(&database.config);
    connected(&mut wakeups).await;
    let id = submit(&database.pool, simple_plan()).await;
    worker.work(&database.pool).await;
    let mut last = 0;
    loop {
        assert_eq!(wakeups.wait(LONG).await, Wakeup::Changed(vec![id]));
        let news = events::after(&database.pool, id, last, 100).await.unwrap();
        last = news.last().map_or(last, |event| event.id);
        if news.iter().any(|event| event.event_type == "job.completed") {
            break;
        }
    }
}

#[tokio::test]
async fn many_announcements_arrive_as_few() {
    let database = TestDatabase::create().await;
    let mut wakeups = Wakeups::for_jobs(&database.config);
    connected(&mut wakeups).await;
    let mut expected = Vec::new();
    for _ in 0..30 {
        expected.push(submit(&database.pool, simple_plan()).await);
    }
    let mut rounds = 0;
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        match wakeups.wait(LONG).await {
            Wakeup::Changed(jobs) => seen.extend(jobs),
            other => panic!("{other:?}"),
        }
        rounds += 1;
    }
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    assert!(rounds < 30, "{rounds} rounds for 30 submits");
}

#[tokio::test]
async fn a_listener_that_lost_its_connection_asks_for_a_look_at_everything() {
    let database = TestDatabase::create().await;
    let mut wakeups = Wakeups::for_tasks(&database.config);
    connected(&mut wakeups).await;
    let cut: i64 = sqlx::query_scalar(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
          where datname = current_database() and query ilike 'listen%'",
    )
    .fetch_one(&database.pool)
    .await
    .unwrap();
    assert_eq!(cut, 1);
    connected(&mut wakeups).await;
    submit(&database.pool, simple_plan()).await;
    assert!(matches!(wakeups.wait(LONG).await, Wakeup::Changed(_)));
}

#[tokio::test]
async fn behind_a_transaction_pooler_a_waiter_only_times_out() {
    let mut database = TestDatabase::create().await;
    database.config.transaction_pooler = true;
    let mut wakeups = Wakeups::for_tasks(&database.config);
    submit(&database.pool, simple_plan()).await;
    assert_eq!(
        wakeups.wait(Duration::from_millis(150)).await,
        Wakeup::Timeout
    );
}

#[tokio::test]
async fn events_can_be_replayed_from_any_id() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let id = submit(&pool, simple_plan()).await;
    let task = worker.claim_one(&pool).await;
    let own = events::append(&pool, id, "model.loading", &json!({"model": "nano"}))
        .await
        .unwrap();
    tasks::complete(&pool, task.lease(), &answer(json!({})))
        .await
        .unwrap();
    let types = |events: Vec<events::JobEvent>| -> Vec<String> {
        events.into_iter().map(|event| event.event_type).collect()
    };
    assert_eq!(
        types(events::after(&pool, id, 0, 100).await.unwrap()),
        [
            "job.pending",
            "job.running",
            "model.loading",
            "task.completed"
        ]
    );
    assert_eq!(
        types(events::after(&pool, id, own, 100).await.unwrap()),
        ["task.completed"]
    );
}
