//! Workers: what they announce, how they are seen, and what becomes of their tasks.

use std::time::Duration;

use dalston_schema::db::workers::{self, BeatAnswer, WorkerBeat};
use dalston_schema::db::{maintenance, queue};
use dalston_schema::{Capability, Stage, WorkerId};
use dalston_test_postgres::TestDatabase;

use crate::plan::{Worker, capabilities, new_worker, offer, simple_plan, submit, transcribe};

#[tokio::test]
async fn capabilities_are_numbered_in_the_order_given() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let id = WorkerId::generate();
    let offers: Vec<_> = capabilities().into_iter().map(offer).collect();
    let forward = workers::register(&pool, &new_worker(id, None), &offers)
        .await
        .unwrap();
    let backward: Vec<_> = offers.iter().rev().cloned().collect();
    let mut again = workers::register(&pool, &new_worker(id, None), &backward)
        .await
        .unwrap();
    again.reverse();
    assert_eq!(forward, again);
    let listed = workers::list(&pool).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].status, "live");
    assert_eq!(listed[0].capabilities.len(), offers.len());
    let mut offered = workers::offered(&pool).await.unwrap();
    let mut expected = offers;
    offered.sort_by(|a, b| a.capability.cmp(&b.capability));
    expected.sort_by(|a, b| a.capability.cmp(&b.capability));
    assert_eq!(offered, expected);
}

#[tokio::test]
async fn many_workers_may_register_the_same_new_capabilities_at_once() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let all = futures_util::future::join_all((0..8).map(|_| Worker::able(&pool))).await;
    assert!(all.windows(2).all(|pair| pair[0].wanted == pair[1].wanted));
}

#[tokio::test]
async fn a_heartbeat_tells_a_worker_to_drain_or_to_register_again() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let beat = WorkerBeat {
        loaded_models: vec![("whisper-nano".to_owned(), Some(1 << 20))],
        active_tasks: 2,
    };
    assert_eq!(
        workers::heartbeat(&pool, worker.id, &beat).await.unwrap(),
        BeatAnswer::Live
    );
    let listed = workers::list(&pool).await.unwrap();
    assert_eq!(listed[0].loaded_models, ["whisper-nano"]);
    assert!(workers::drain(&pool, worker.id).await.unwrap());
    assert_eq!(
        workers::heartbeat(&pool, worker.id, &beat).await.unwrap(),
        BeatAnswer::Draining
    );
    assert!(workers::offered(&pool).await.unwrap().is_empty());
    workers::deregister(&pool, worker.id).await.unwrap();
    assert_eq!(
        workers::heartbeat(&pool, worker.id, &beat).await.unwrap(),
        BeatAnswer::Unknown
    );
    assert!(!workers::drain(&pool, worker.id).await.unwrap());
}

#[tokio::test]
async fn a_restarted_worker_takes_over_from_its_earlier_run_at_once() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let offers = vec![offer(Capability::without_model(Stage::Prepare))];
    let (before, after) = (WorkerId::generate(), WorkerId::generate());
    let ids = workers::register(&pool, &new_worker(before, Some("host#0")), &offers)
        .await
        .unwrap();
    let earlier = Worker {
        id: before,
        wanted: ids
            .iter()
            .map(|&capability_id| dalston_schema::db::tasks::Wanted {
                capability_id,
                loaded: true,
            })
            .collect(),
    };
    submit(&pool, simple_plan()).await;
    let task = earlier.claim_one(&pool).await;
    workers::register(&pool, &new_worker(after, Some("host#0")), &offers)
        .await
        .unwrap();
    let later = Worker {
        id: after,
        wanted: earlier.wanted.clone(),
    };
    let again = later.claim_one(&pool).await;
    assert_eq!((again.id, again.attempt), (task.id, 2));
    assert_eq!(workers::list(&pool).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_worker_that_deregisters_gives_its_tasks_back_uncounted() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let leaving = Worker::able(&pool).await;
    let staying = Worker::able(&pool).await;
    for _ in 0..3 {
        submit(&pool, simple_plan()).await;
    }
    assert_eq!(leaving.claim(&pool, 10).await.len(), 3);
    workers::deregister(&pool, leaving.id).await.unwrap();
    let again = staying.claim(&pool, 10).await;
    assert_eq!(again.len(), 3);
    assert!(again.iter().all(|task| task.attempt == 1));
}

#[tokio::test]
async fn silent_workers_are_shown_not_planned_with_and_forgotten() {
    let mut database = TestDatabase::create().await;
    Worker::register(&database.pool, &[transcribe("nano")]).await;
    database.set_clock("2100-01-01 00:00Z").await;
    let pool = &database.pool;
    assert_eq!(workers::list(pool).await.unwrap()[0].status, "silent");
    assert!(workers::offered(pool).await.unwrap().is_empty());
    let hour = Duration::from_secs(3600);
    assert_eq!(maintenance::forget_workers(pool, hour).await.unwrap(), 1);
    assert!(workers::list(pool).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_queue_depth_says_what_waits_and_who_could_do_it() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    for _ in 0..3 {
        submit(&pool, simple_plan()).await;
    }
    let depth = queue::depths(&pool).await.unwrap();
    assert_eq!(depth.len(), 1);
    assert_eq!((depth[0].ready, depth[0].workers), (3, 0));
    assert!(depth[0].oldest_wait_seconds.is_some());
    let stuck: i64 = sqlx::query_scalar(
        "select count(*) from stuck_tasks where reason = 'no live worker can run this'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(stuck, 3);

    let worker = Worker::able(&pool).await;
    worker.claim_one(&pool).await;
    let depth = queue::depths(&pool).await.unwrap();
    let prepare = depth.iter().find(|row| row.stage == "prepare").unwrap();
    assert_eq!((prepare.ready, prepare.running, prepare.workers), (2, 1, 1));
    let stuck: i64 = sqlx::query_scalar("select count(*) from stuck_tasks")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(stuck, 0);
}
