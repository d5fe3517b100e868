//! Workers that stop: what they run is finished or given back.

use std::time::Duration;

use dalston_schema::db::workers;
use dalston_schema::{Stage, TaskStatus};

use crate::harness::{Harness, eventually, sleeping, utterance};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_does_not_finish_in_the_grace_is_given_back_without_an_attempt() {
    let harness = Harness::new().await;
    let mut config = harness.config();
    config.shutdown_grace = Duration::from_millis(100);
    let worker = harness.run(config);
    let job = harness
        .submit(&utterance("dev-00001"), &sleeping("hang=yes"))
        .await;
    harness.until_running(job, Stage::Transcribe).await;
    worker.stop().await;
    let task = harness.task(job, Stage::Transcribe).await;
    assert_eq!((task.status, task.retries), (TaskStatus::Ready, 0));
    assert!(
        workers::list(&harness.database.pool)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_finishes_in_the_grace_is_recorded() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let job = harness
        .submit(&utterance("dev-00001"), &sleeping("seconds=1"))
        .await;
    harness.until_running(job, Stage::Transcribe).await;
    worker.stop().await;
    assert_eq!(
        harness.task(job, Stage::Transcribe).await.status,
        TaskStatus::Completed
    );
    // Nothing new was claimed on the way out; the next worker goes on.
    let worker = harness.run(harness.config());
    harness.transcript(job).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_drains_a_worker() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let id = eventually("a registered worker", async || {
        let workers = workers::list(&harness.database.pool).await.unwrap();
        workers.first().map(|worker| worker.id)
    })
    .await;
    assert!(workers::drain(&harness.database.pool, id).await.unwrap());
    worker.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_ends_when_nothing_is_left_and_not_before() {
    let harness = Harness::new().await;
    let mut jobs = Vec::new();
    for directives in ["seconds=0", "seconds=0 fail=retryable attempts=1"] {
        jobs.push(
            harness
                .submit(&utterance("dev-00001"), &sleeping(directives))
                .await,
        );
    }
    let mut config = harness.config();
    config.once = true;
    harness.run(config).ended().await;
    for job in jobs {
        let ended = harness.job(job).await;
        assert!(ended.status.is_final(), "{:?}", ended.status);
    }
}
