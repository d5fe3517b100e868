//! What workers do from time to time.

use std::time::Duration;

use bytes::Bytes;
use dalston_schema::db::maintenance;
use dalston_schema::db::workers::{self, NewWorker};
use dalston_schema::{ArtifactKey, JobId, Stage, TaskId, WorkerId};

use crate::harness::{Harness, eventually, sleeping, utterance};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_retention_is_purged_with_its_audio() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let mut wish = sleeping("seconds=0");
    wish.retention_days = 0;
    let job = harness.submit(&utterance("dev-00001"), &wish).await;
    harness.end_of(job).await;
    eventually("the purge", async || harness.job(job).await.purged_at).await;
    eventually("the audio's end", async || {
        let key = ArtifactKey::original_audio(job, "wav");
        harness.storage.size(&key).await.is_err().then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_without_a_job_is_swept_after_a_day_and_not_before() {
    let harness = Harness::new().await;
    let installation = maintenance::installation(&harness.database.pool).await;
    harness.storage.mark(installation.unwrap()).await.unwrap();
    let young = ArtifactKey::original_audio(JobId::generate(), "wav");
    // The time in this id is in 2023.
    let old_job: JobId = "018b0000-0000-7000-8000-000000000000".parse().unwrap();
    let old = ArtifactKey::original_audio(old_job, "wav");
    let prepared = ArtifactKey::prepared_audio(old_job, TaskId::generate(), None);
    for key in [&young, &old, &prepared] {
        harness
            .storage
            .put(key, Bytes::from_static(b"audio"))
            .await
            .unwrap();
    }
    let worker = harness.run(harness.config());
    eventually("the sweep", async || {
        (harness.storage.size(&old).await.is_err()
            && harness.storage.size(&prepared).await.is_err())
        .then_some(())
    })
    .await;
    assert_eq!(harness.storage.size(&young).await.unwrap(), 5);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_of_another_installation_is_never_swept() {
    let harness = Harness::new().await;
    let installation = maintenance::installation(&harness.database.pool)
        .await
        .unwrap();
    // An empty store becomes that of whoever looks first.
    let worker = harness.run(harness.config());
    eventually("the mark", async || {
        let owner = harness.storage.owner().await.unwrap();
        (owner? == installation.to_string()).then_some(())
    })
    .await;
    worker.stop().await;

    let old_job: JobId = "018b0000-0000-7000-8000-000000000000".parse().unwrap();
    let old = ArtifactKey::original_audio(old_job, "wav");
    harness.storage.put(&old, "audio".into()).await.unwrap();
    let other = uuid::Uuid::now_v7();
    harness.storage.mark(other).await.unwrap();
    let mut config = harness.config();
    config.sweep_interval = Duration::from_millis(10);
    let worker = harness.run(config);
    // Many sweeps long.
    let job = harness
        .submit(&utterance("dev-00001"), &sleeping("seconds=0.5"))
        .await;
    harness.transcript(job).await;
    worker.stop().await;
    assert_eq!(harness.storage.size(&old).await.unwrap(), 5);
    assert_eq!(
        harness.storage.owner().await.unwrap(),
        Some(other.to_string())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_silent_worker_are_rescued_and_run_elsewhere() {
    let harness = Harness::new().await;
    let pool = &harness.database.pool;
    let silent = NewWorker {
        id: WorkerId::generate(),
        hostname: "gone".to_owned(),
        identity: None,
        version: "0".to_owned(),
        device: "cpu".to_owned(),
        slots: 1,
    };
    let job = harness
        .submit(&utterance("dev-00001"), &sleeping("seconds=0"))
        .await;
    let offered = workers::offered(pool).await.unwrap();
    assert!(offered.is_empty());
    let capability = dalston_schema::Capability::without_model(Stage::Prepare);
    workers::register(pool, &silent, &[]).await.unwrap();
    let wanted = dalston_schema::db::tasks::Wanted {
        capability_id: workers::capability_id(pool, &capability).await.unwrap(),
        loaded: true,
    };
    let claimed = dalston_schema::db::tasks::claim(pool, silent.id, &[wanted], 1, 0.3)
        .await
        .unwrap();
    assert_eq!(claimed.len(), 1);
    let worker = harness.run(harness.config());
    harness.transcript(job).await;
    assert_eq!(harness.task(job, Stage::Prepare).await.retries, 1);
    worker.stop().await;
}
