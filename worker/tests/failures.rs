//! Attempts that fail, and databases that do.

use dalston_schema::{JobStatus, Stage, TaskStatus};

use crate::harness::{Harness, eventually, sleeping, utterance};

/// Cuts every connection of the worker. Those of the test are left: they would die under its own next look.
const CUT_ALL_OF_THE_WORKER: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity
    where datname = current_database() and application_name = 'dalston-worker'";

#[tokio::test(flavor = "multi_thread")]
async fn a_passing_failure_is_tried_again_and_the_job_completes() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let wish = sleeping("seconds=0 fail=retryable attempts=1");
    let job = harness.submit(&utterance("dev-00001"), &wish).await;
    harness.transcript(job).await;
    assert_eq!(harness.task(job, Stage::Transcribe).await.retries, 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_failure_is_not_tried_again() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let wish = sleeping("seconds=0 fail=permanent");
    let job = harness.submit(&utterance("dev-00001"), &wish).await;
    let ended = harness.end_of(job).await;
    assert_eq!(ended.status, JobStatus::Failed);
    assert!(ended.error.unwrap().contains("told to fail"));
    let task = harness.task(job, Stage::Transcribe).await;
    assert_eq!((task.status, task.retries), (TaskStatus::Failed, 1));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_stage_fails_the_attempt_and_not_the_worker() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let mut wish = sleeping("seconds=0 panic=yes");
    wish.max_attempts = 2;
    let job = harness.submit(&utterance("dev-00001"), &wish).await;
    let ended = harness.end_of(job).await;
    assert_eq!(ended.status, JobStatus::Failed);
    assert!(ended.error.unwrap().contains("crashed"));
    let after = harness
        .submit(&utterance("dev-00001"), &sleeping("seconds=0"))
        .await;
    harness.transcript(after).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_cost_no_attempt() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let job = harness
        .submit(&utterance("dev-00001"), &sleeping("seconds=2"))
        .await;
    harness.until_running(job, Stage::Transcribe).await;
    let mut cuts = 0;
    eventually("the end of the job", async || {
        if cuts < 30 {
            cuts += harness.count(CUT_ALL_OF_THE_WORKER).await;
        }
        harness.job(job).await.status.is_final().then_some(())
    })
    .await;
    assert!(cuts > 0, "the worker had no connection to cut");
    harness.transcript(job).await;
    assert_eq!(harness.task(job, Stage::Transcribe).await.retries, 0);
    worker.stop().await;
}
