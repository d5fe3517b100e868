//! Jobs as the API sees them: submit, cancel, retry, rename, delete, lists, counts, search.

use chrono::Utc;
use dalston_schema::db::jobs::{
    self, AudioDeleted, Cancelled, Deleted, JobFilter, JobStats, Retried, Scope, Submitted,
};
use dalston_schema::db::{DbError, PgPool, tasks};
use dalston_schema::transcript::{Transcript, TranscriptMetadata};
use dalston_schema::{ApiKeyId, JobId, JobStatus, Stage, TenantId};
use dalston_test_postgres::TestDatabase;
use serde_json::json;

use crate::plan::{
    Worker, answer, expire_leases, job, read, simple_plan, state, submit, wide_plan,
};

const EVERYTHING: Scope = Scope {
    tenant_id: TenantId::DEFAULT,
    key_id: None,
};

fn transcript(job_id: JobId, text: &str) -> Transcript {
    Transcript {
        job_id,
        version: "1.0".to_owned(),
        metadata: TranscriptMetadata {
            audio_duration: 60.0,
            audio_channels: 1,
            sample_rate: 16_000,
            language: "en".to_owned(),
            language_confidence: None,
            language_source: None,
            languages: None,
            word_timestamps: false,
            word_timestamps_requested: false,
            speaker_detection: "none".to_owned(),
            speaker_count: 0,
            created_at: Utc::now(),
            completed_at: Utc::now(),
            pipeline_stages: vec!["transcribe".to_owned()],
            pipeline_warnings: Vec::new(),
        },
        text: text.to_owned(),
        speakers: Vec::new(),
        segments: Vec::new(),
        turns: Vec::new(),
        paragraphs: Vec::new(),
        summary: None,
        redacted_text: None,
        pii_entities: None,
        pii_metadata: None,
    }
}

/// Runs a whole job whose merge hands in this text.
pub(crate) async fn finish_with_text(pool: &PgPool, text: &str) -> JobId {
    let worker = Worker::able(pool).await;
    let id = submit(pool, simple_plan()).await;
    for _ in 0..3 {
        let task = worker.claim_one(pool).await;
        let mut completion = answer(json!({}));
        if task.stage == Stage::Merge {
            let transcript = transcript(id, text);
            let stats = transcript.stats();
            completion.transcript = Some((transcript, stats));
        }
        tasks::complete(pool, task.lease(), &completion)
            .await
            .unwrap();
    }
    id
}

#[tokio::test]
async fn the_same_idempotency_key_answers_the_same_job() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let mut first = job(simple_plan());
    first.idempotency_key = Some("abc".to_owned());
    first.idempotency_fingerprint = Some("one".to_owned());
    let mut again = job(simple_plan());
    again.idempotency_key = first.idempotency_key.clone();
    again.idempotency_fingerprint = first.idempotency_fingerprint.clone();
    let (a, b) = tokio::join!(
        jobs::submit(&pool, &first, None),
        jobs::submit(&pool, &again, None)
    );
    let answers = [a.unwrap(), b.unwrap()];
    let made: Vec<_> = answers
        .iter()
        .filter_map(|answer| match answer {
            Submitted::Created(id) => Some(*id),
            Submitted::Existing(_) => None,
        })
        .collect();
    assert_eq!(made.len(), 1);
    assert!(answers.contains(&Submitted::Existing(made[0])));

    let mut other = job(simple_plan());
    other.idempotency_key = Some("abc".to_owned());
    other.idempotency_fingerprint = Some("two".to_owned());
    assert!(matches!(
        jobs::submit(&pool, &other, None).await,
        Err(DbError::IdempotencyMismatch)
    ));
}

#[tokio::test]
async fn a_tenant_may_have_only_so_many_unfinished_jobs() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let many: Vec<_> = (0..6).map(|_| job(simple_plan())).collect();
    let answers =
        futures_util::future::join_all(many.iter().map(|job| jobs::submit(&pool, job, Some(4))))
            .await;
    let refused = answers
        .iter()
        .filter(|answer| matches!(answer, Err(DbError::JobLimit { limit: 4 })))
        .count();
    assert_eq!(refused, 2);
    Worker::able(&pool).await.work(&pool).await;
    assert!(
        jobs::submit(&pool, &job(simple_plan()), Some(4))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn cancelling_a_waiting_job_is_immediate() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let id = submit(&pool, simple_plan()).await;
    assert_eq!(
        jobs::cancel(&pool, EVERYTHING, id).await.unwrap(),
        Cancelled::Now
    );
    let cancelled = read(&pool, id).await;
    assert_eq!(cancelled.status, JobStatus::Cancelled);
    assert!(cancelled.completed_at.is_some());
    assert!(Worker::able(&pool).await.claim(&pool, 10).await.is_empty());
    assert_eq!(
        jobs::cancel(&pool, EVERYTHING, id).await.unwrap(),
        Cancelled::Refused(JobStatus::Cancelled)
    );
}

#[tokio::test]
async fn a_running_job_is_cancelled_when_its_worker_gives_the_task_back() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let id = submit(&pool, simple_plan()).await;
    let task = worker.claim_one(&pool).await;
    assert_eq!(
        jobs::cancel(&pool, EVERYTHING, id).await.unwrap(),
        Cancelled::Stopping { running: 1 }
    );
    assert_eq!(read(&pool, id).await.status, JobStatus::Cancelling);
    tasks::give_back(&pool, task.lease()).await.unwrap();
    assert_eq!(read(&pool, id).await.status, JobStatus::Cancelled);
    assert_eq!(state(&pool, id, "prepare").await, "cancelled");
}

#[tokio::test]
async fn a_cancelling_job_ends_however_its_last_task_ends() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    for how in ["complete", "fail", "rescue"] {
        let id = submit(&pool, simple_plan()).await;
        let task = worker.claim_one(&pool).await;
        jobs::cancel(&pool, EVERYTHING, id).await.unwrap();
        match how {
            "complete" => {
                tasks::complete(&pool, task.lease(), &answer(json!({})))
                    .await
                    .unwrap();
            }
            "fail" => {
                tasks::fail(&pool, task.lease(), "stopped", true)
                    .await
                    .unwrap();
            }
            _ => {
                expire_leases(&pool).await;
                dalston_schema::db::maintenance::rescue_tasks(&pool, 10)
                    .await
                    .unwrap();
            }
        }
        assert_eq!(read(&pool, id).await.status, JobStatus::Cancelled, "{how}");
        assert!(worker.claim(&pool, 10).await.is_empty(), "{how}");
    }
}

#[tokio::test]
async fn a_failed_job_can_be_retried_from_where_it_stopped() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let id = submit(&pool, simple_plan()).await;
    let prepare = worker.claim_one(&pool).await;
    tasks::complete(&pool, prepare.lease(), &answer(json!({"kept": true})))
        .await
        .unwrap();
    assert_eq!(
        jobs::retry(&pool, EVERYTHING, id, None).await.unwrap(),
        Retried::Refused(JobStatus::Running)
    );
    let transcribe = worker.claim_one(&pool).await;
    tasks::fail(&pool, transcribe.lease(), "no", false)
        .await
        .unwrap();
    // A retry counts as a submit does.
    let refused = jobs::retry(&pool, EVERYTHING, id, Some(0)).await;
    assert!(matches!(refused, Err(DbError::JobLimit { limit: 0 })));
    assert_eq!(
        jobs::retry(&pool, EVERYTHING, id, Some(1)).await.unwrap(),
        Retried::Done
    );
    assert_eq!(worker.work(&pool).await, ["transcribe", "merge"]);
    let done = read(&pool, id).await;
    assert_eq!((done.status, done.error), (JobStatus::Completed, None));
}

#[tokio::test]
async fn one_skipped_task_can_be_run_again_and_merged_again() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let id = submit(&pool, wide_plan()).await;
    let prepare = worker.claim_one(&pool).await;
    tasks::complete(&pool, prepare.lease(), &answer(json!({})))
        .await
        .unwrap();
    let mut diarize = None;
    for task in worker.claim(&pool, 10).await {
        if task.stage == Stage::Diarize {
            tasks::fail(&pool, task.lease(), "too quiet", false)
                .await
                .unwrap();
            diarize = Some(task.id);
        } else {
            tasks::complete(&pool, task.lease(), &answer(json!({})))
                .await
                .unwrap();
        }
    }
    worker.work(&pool).await;
    assert_eq!(read(&pool, id).await.status, JobStatus::Completed);
    let retried = tasks::retry(&pool, EVERYTHING, id, diarize.unwrap(), None)
        .await
        .unwrap();
    assert_eq!(retried, Retried::Done);
    assert_eq!(read(&pool, id).await.status, JobStatus::Running);
    assert_eq!(worker.work(&pool).await, ["diarize", "merge"]);
    assert_eq!(read(&pool, id).await.status, JobStatus::Completed);
}

#[tokio::test]
async fn a_job_cancelled_after_its_last_task_began_can_be_retried_or_says_why_not() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    for skip in [false, true] {
        let id = submit(&pool, wide_plan()).await;
        loop {
            let task = worker.claim_one(&pool).await;
            if task.stage == Stage::Merge {
                jobs::cancel(&pool, EVERYTHING, id).await.unwrap();
            }
            if task.stage == Stage::Diarize && skip {
                tasks::fail(&pool, task.lease(), "too quiet", false)
                    .await
                    .unwrap();
            } else {
                tasks::complete(&pool, task.lease(), &answer(json!({})))
                    .await
                    .unwrap();
            }
            if task.stage == Stage::Merge {
                break;
            }
        }
        assert_eq!(read(&pool, id).await.status, JobStatus::Cancelled);
        let retried = jobs::retry(&pool, EVERYTHING, id, None).await.unwrap();
        if skip {
            assert_eq!(retried, Retried::Done);
            assert_eq!(worker.work(&pool).await, ["diarize", "merge"]);
            assert_eq!(read(&pool, id).await.status, JobStatus::Completed);
        } else {
            assert_eq!(retried, Retried::Refused(JobStatus::Cancelled));
        }
    }
}

#[tokio::test]
async fn deleting_a_job_leaves_no_row_behind() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let unfinished = submit(&pool, simple_plan()).await;
    assert_eq!(
        jobs::delete(&pool, EVERYTHING, unfinished).await.unwrap(),
        Deleted::Refused(JobStatus::Pending)
    );
    jobs::cancel(&pool, EVERYTHING, unfinished).await.unwrap();
    assert_eq!(
        jobs::delete(&pool, EVERYTHING, unfinished).await.unwrap(),
        Deleted::Done
    );
    let id = finish_with_text(&pool, "gone tomorrow").await;
    assert_eq!(
        jobs::delete(&pool, EVERYTHING, id).await.unwrap(),
        Deleted::Done
    );
    assert_eq!(
        jobs::delete(&pool, EVERYTHING, id).await.unwrap(),
        Deleted::NotFound
    );
    for table in [
        "jobs",
        "tasks",
        "ready_tasks",
        "running_tasks",
        "task_payloads",
        "task_edges",
        "transcripts",
        "job_log",
    ] {
        let rows: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {table}")))
                .fetch_one(&pool)
                .await
                .unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn audio_can_be_deleted_once_and_the_transcript_stays() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let id = finish_with_text(&pool, "still here").await;
    assert_eq!(
        jobs::delete_audio(&pool, EVERYTHING, id).await.unwrap(),
        AudioDeleted::Done
    );
    assert_eq!(
        jobs::delete_audio(&pool, EVERYTHING, id).await.unwrap(),
        AudioDeleted::Gone { purged_at: None }
    );
    assert_eq!(read(&pool, id).await.audio_key, None);
    assert!(jobs::transcript(&pool, id).await.unwrap().is_some());
    let running = submit(&pool, simple_plan()).await;
    assert_eq!(
        jobs::delete_audio(&pool, EVERYTHING, running)
            .await
            .unwrap(),
        AudioDeleted::Refused(JobStatus::Pending)
    );
}

#[tokio::test]
async fn a_key_sees_only_its_own_jobs() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let (mine, theirs) = (ApiKeyId::generate(), ApiKeyId::generate());
    let mut new = job(simple_plan());
    new.created_by = Some(mine);
    jobs::submit(&pool, &new, None).await.unwrap();
    let scope = |key| Scope {
        key_id: Some(key),
        ..EVERYTHING
    };
    assert!(
        jobs::get(&pool, scope(mine), new.id)
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        jobs::get(&pool, EVERYTHING, new.id)
            .await
            .unwrap()
            .is_some()
    );
    let stranger = scope(theirs);
    assert!(jobs::get(&pool, stranger, new.id).await.unwrap().is_none());
    assert!(
        jobs::rename(&pool, stranger, new.id, "mine now")
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        jobs::cancel(&pool, stranger, new.id).await.unwrap(),
        Cancelled::NotFound
    );
    let list = |scope| {
        let pool = pool.clone();
        async move {
            let filter = JobFilter {
                limit: 10,
                ..JobFilter::default()
            };
            jobs::list(&pool, scope, &filter).await.unwrap().len()
        }
    };
    assert_eq!((list(scope(mine)).await, list(stranger).await), (1, 0));
    assert_eq!(
        jobs::rename(&pool, scope(mine), new.id, "minutes.wav")
            .await
            .unwrap()
            .as_deref(),
        Some("meeting.wav")
    );
}

#[tokio::test]
async fn lists_are_paged_newest_first_without_gaps() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(submit(&pool, simple_plan()).await);
    }
    made.reverse();
    let mut seen = Vec::new();
    let mut filter = JobFilter {
        limit: 3,
        ..JobFilter::default()
    };
    loop {
        let page = jobs::list(&pool, EVERYTHING, &filter).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.after = Some((last.created_at, last.id));
        seen.extend(page.iter().map(|job| job.id));
    }
    assert_eq!(seen, made);
    filter = JobFilter {
        status: Some(JobStatus::Completed),
        limit: 10,
        ..JobFilter::default()
    };
    assert!(
        jobs::list(&pool, EVERYTHING, &filter)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn jobs_are_counted_by_state_and_day() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    finish_with_text(&pool, "one").await;
    let failing = submit(&pool, simple_plan()).await;
    let task = worker.claim_one(&pool).await;
    assert_eq!(task.job_id, failing);
    tasks::fail(&pool, task.lease(), "no", false).await.unwrap();
    submit(&pool, simple_plan()).await;
    worker.claim_one(&pool).await;
    let waiting = submit(&pool, simple_plan()).await;
    let expected = JobStats {
        running: 1,
        queued: 1,
        completed_today: 1,
        failed_today: 1,
    };
    assert_eq!(jobs::stats(&pool, EVERYTHING).await.unwrap(), expected);
    let statuses = jobs::statuses(&pool, &[failing, waiting, JobId::generate()])
        .await
        .unwrap();
    assert_eq!(statuses.len(), 2);
    assert!(statuses.contains(&(failing, JobStatus::Failed)));
}

#[tokio::test]
async fn transcripts_come_back_as_they_were_stored_and_can_be_searched() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let id = finish_with_text(&pool, "The quick brown fox jumps over the lazy dog").await;
    finish_with_text(&pool, "Nothing to see here").await;
    let stored = jobs::transcript(&pool, id).await.unwrap().unwrap();
    assert_eq!(stored.text, "The quick brown fox jumps over the lazy dog");
    let read = read(&pool, id).await;
    assert_eq!(read.result_word_count, Some(9));
    assert_eq!(read.result_language_code.as_deref(), Some("en"));

    let hits = jobs::search(&pool, EVERYTHING, "lazy fox", 10)
        .await
        .unwrap();
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].job_id, id);
    assert!(hits[0].snippet.contains("**fox**"), "{}", hits[0].snippet);
    let elsewhere = Scope {
        tenant_id: TenantId::generate(),
        key_id: None,
    };
    assert!(
        jobs::search(&pool, elsewhere, "fox", 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_very_long_transcript_can_be_stored() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let text: String = (0..400_000).map(|n| format!("слово{n} ")).collect();
    finish_with_text(&pool, &text).await;
    let hits = jobs::search(&pool, EVERYTHING, "слово77", 10)
        .await
        .unwrap();
    assert_eq!(hits.len(), 1);
}
