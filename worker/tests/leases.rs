//! Leases lost and jobs cancelled while their tasks run.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use dalston_schema::db::workers;
use dalston_schema::{JobStatus, Stage, TaskStatus};

use crate::harness::{Harness, dialogue, eventually, sleeping, utterance, wav, whisper};
use crate::pipeline::cancel;

/// A second, and what two busy cores need besides.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_stops_the_task_and_records_nothing() {
    let harness = Harness::new().await;
    let mut config = harness.config();
    config.concurrency = NonZeroUsize::MIN;
    let worker = harness.run(config);
    let lost = harness
        .submit(&utterance("dev-00001"), &sleeping("hang=yes"))
        .await;
    harness.until_running(lost, Stage::Transcribe).await;
    let task = harness.task(lost, Stage::Transcribe).await;
    // Another claim of the task, as after a rescue.
    let token: i64 = sqlx::query_scalar(
        "update running_tasks set lease = nextval('task_leases'), lease_expires_at = dalston_now() + interval '1 h'
          where $1 = any(tasks) returning lease",
    )
    .bind(task.id)
    .fetch_one(&harness.database.pool)
    .await
    .unwrap();
    // The only permit comes free once the task was stopped.
    let next = harness
        .submit(&utterance("dev-00001"), &sleeping("seconds=0"))
        .await;
    harness.transcript(next).await;
    let after = harness.task(lost, Stage::Transcribe).await;
    assert_eq!((after.status, after.retries), (TaskStatus::Running, 0));
    assert_eq!(after.error, None);
    let still: i64 = sqlx::query_scalar("select lease from running_tasks where $1 = any(tasks)")
        .bind(task.id)
        .fetch_one(&harness.database.pool)
        .await
        .unwrap();
    assert_eq!(still, token);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_stops_its_running_task_within_a_second() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let job = harness
        .submit(&utterance("dev-00001"), &sleeping("hang=yes"))
        .await;
    harness.until_running(job, Stage::Transcribe).await;
    let cancelled_at = Instant::now();
    cancel(&harness, job).await;
    let ended = harness.end_of(job).await;
    assert_eq!(ended.status, JobStatus::Cancelled);
    let took = cancelled_at.elapsed();
    assert!(took < SOON, "{took:?}");
    assert_eq!(
        harness.task(job, Stage::Transcribe).await.status,
        TaskStatus::Cancelled
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_stops_a_running_model_call_within_a_second() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let mut wish = whisper(true);
    wish.transcribe.beam_size = 5;
    // A quarter of an hour of speech: far more than is done by the time it is cancelled.
    let speech = std::fs::read(dialogue("dlg01.wav")).unwrap()[44..]
        .chunks_exact(2)
        .map(|sample| i16::from_le_bytes([sample[0], sample[1]]))
        .collect::<Vec<_>>()
        .repeat(13);
    let job = harness.submit_bytes(wav(16_000, 1, &speech), &wish).await;
    eventually("a model at work", async || {
        let workers = workers::list(&harness.database.pool).await.unwrap();
        let task = harness.task(job, Stage::Transcribe).await;
        (task.status == TaskStatus::Running && !workers[0].loaded_models.is_empty()).then_some(())
    })
    .await;
    let cancelled_at = Instant::now();
    cancel(&harness, job).await;
    let ended = harness.end_of(job).await;
    assert_eq!(ended.status, JobStatus::Cancelled);
    let took = cancelled_at.elapsed();
    assert!(took < SOON, "{took:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_task_outlives_its_first_lease() {
    let harness = Harness::new().await;
    let mut config = harness.config();
    config.lease = Duration::from_secs(2);
    let worker = harness.run(config);
    let job = harness
        .submit(&utterance("dev-00001"), &sleeping("seconds=5"))
        .await;
    harness.transcript(job).await;
    let task = harness.task(job, Stage::Transcribe).await;
    assert_eq!(task.retries, 0);
    assert!(task.completed_at.unwrap() - task.started_at.unwrap() >= chrono::Duration::seconds(5));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_of_a_running_task_reaches_the_job() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let job = harness
        .submit(&utterance("dev-00001"), &sleeping("seconds=3"))
        .await;
    let halfway = eventually("progress", async || {
        let progress = harness.job(job).await.progress;
        (progress > 0.3 && progress < 1.0).then_some(progress)
    })
    .await;
    harness.transcript(job).await;
    assert!(harness.job(job).await.progress > halfway);
    worker.stop().await;
}
