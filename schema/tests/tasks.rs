//! A job's way through its tasks: claim, complete, fan-out, failure, hand-back, rescue.

use std::time::Duration;

use dalston_schema::db::tasks::{LeaseState, Outcome, Wanted};
use dalston_schema::db::{PgPool, events, jobs, maintenance, tasks};
use dalston_schema::task::{Lease, Progress};
use dalston_schema::{Capability, JobId, JobStatus, Stage, TaskId, TaskStatus, WorkerId};
use dalston_test_postgres::TestDatabase;
use serde_json::json;

use crate::plan::{
    Worker, answer, capabilities, expire_leases, read, simple_plan, state, submit, task,
    transcribe, wide_plan,
};

#[tokio::test]
async fn a_job_runs_through_its_tasks_to_completed() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let job = submit(&pool, simple_plan()).await;
    assert_eq!(read(&pool, job).await.status, JobStatus::Pending);

    let prepare = worker.claim_one(&pool).await;
    assert_eq!((prepare.stage, prepare.attempt), (Stage::Prepare, 1));
    let running = read(&pool, job).await;
    assert_eq!(running.status, JobStatus::Running);
    assert_eq!(running.current_stage.as_deref(), Some("prepare"));
    assert!(running.started_at.is_some());
    assert!(worker.claim(&pool, 10).await.is_empty(), "transcribe waits");

    let done = tasks::complete(&pool, prepare.lease(), &answer(json!({"facts": 1})))
        .await
        .unwrap();
    assert_eq!(done, Outcome::Done);
    assert_eq!(worker.work(&pool).await, ["transcribe", "merge"]);

    let completed = read(&pool, job).await;
    assert_eq!(completed.status, JobStatus::Completed);
    assert!((completed.progress - 1.0).abs() < 1e-9);
    let kept = completed.purge_after.unwrap() - completed.completed_at.unwrap();
    assert_eq!(kept.num_days(), 30);
    let types: Vec<String> = events::after(&pool, job, 0, 100)
        .await
        .unwrap()
        .into_iter()
        .map(|event| event.event_type)
        .collect();
    assert_eq!(
        types,
        [
            "job.pending",
            "job.running",
            "task.completed",
            "task.completed",
            "task.completed",
            "job.completed"
        ]
    );
    let sent: Vec<String> =
        sqlx::query_scalar("select message->>'status' from pgmq.q_job_events order by msg_id")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(sent, ["pending", "running", "completed"]);
}

#[tokio::test]
async fn dependants_read_what_the_tasks_before_them_answered() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let job = submit(&pool, simple_plan()).await;
    let prepare = worker.claim_one(&pool).await;
    tasks::complete(&pool, prepare.lease(), &answer(json!({"n": 7})))
        .await
        .unwrap();
    let finished = tasks::finished(&pool, job, None).await.unwrap();
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0].response.as_ref().unwrap().get(), r#"{"n": 7}"#);
    let named = tasks::finished(&pool, job, Some(&["prepare"])).await;
    assert_eq!(named.unwrap().len(), 1);
    let others = tasks::finished(&pool, job, Some(&["merge", "nobody"])).await;
    assert!(others.unwrap().is_empty());

    let listed = tasks::list(&pool, job).await.unwrap();
    let names: Vec<&str> = listed.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["prepare", "transcribe", "merge"]);
    assert_eq!(listed[1].dependencies, [listed[0].id]);
    assert_eq!(listed[1].status, TaskStatus::Ready);
    assert_eq!(listed[2].status, TaskStatus::Pending);
}

#[tokio::test]
async fn prepare_fans_out_and_merge_waits_for_every_chunk() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let prepare = task(Capability::without_model(Stage::Prepare), "prepare", &[]);
    let merge = task(
        Capability::without_model(Stage::Merge),
        "merge",
        &[&prepare],
    );
    let merge_id = merge.id;
    let job = submit(&pool, vec![prepare.clone(), merge]).await;

    let claimed = worker.claim_one(&pool).await;
    let chunks: Vec<_> = (0..5)
        .map(|index| {
            let mut chunk = task(
                transcribe("nano"),
                &format!("transcribe_c{index:03}"),
                &[&prepare],
            );
            chunk.request =
                json!({"chunk": {"index": index, "start": index * 12, "end": index * 12 + 12}});
            chunk
        })
        .collect();
    let mut completion = answer(json!({}));
    completion.fan_out = chunks;
    completion.before = vec![merge_id];
    tasks::complete(&pool, claimed.lease(), &completion)
        .await
        .unwrap();
    assert_eq!(state(&pool, job, "merge").await, "pending");
    assert!((read(&pool, job).await.progress - 0.05).abs() < 1e-9);

    let chunks = worker.claim(&pool, 10).await;
    assert_eq!(chunks.len(), 5);
    for (done, chunk) in chunks.iter().enumerate() {
        assert_eq!(state(&pool, job, "merge").await, "pending");
        tasks::complete(&pool, chunk.lease(), &answer(json!({})))
            .await
            .unwrap();
        let expected = 0.05 + 0.9 * (done as f64 + 1.0) / 5.0;
        assert!((read(&pool, job).await.progress - expected).abs() < 1e-9);
    }
    assert_eq!(worker.work(&pool).await, ["merge"]);
    assert_eq!(read(&pool, job).await.status, JobStatus::Completed);
}

#[tokio::test]
async fn two_siblings_finishing_at_once_release_their_dependant() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    for _ in 0..20 {
        let job = submit(&pool, wide_plan()).await;
        let prepare = worker.claim_one(&pool).await;
        tasks::complete(&pool, prepare.lease(), &answer(json!({})))
            .await
            .unwrap();
        let siblings = worker.claim(&pool, 10).await;
        let answer = answer(json!({}));
        let [a, b, c] = &siblings[..] else {
            panic!("three siblings, got {}", siblings.len())
        };
        let (a, b, c) = tokio::join!(
            tasks::complete(&pool, a.lease(), &answer),
            tasks::complete(&pool, b.lease(), &answer),
            tasks::complete(&pool, c.lease(), &answer),
        );
        assert_eq!([a.unwrap(), b.unwrap(), c.unwrap()], [Outcome::Done; 3]);
        assert_eq!(worker.work(&pool).await, ["merge"]);
        assert_eq!(read(&pool, job).await.status, JobStatus::Completed);
    }
}

#[tokio::test]
async fn two_workers_never_claim_the_same_task() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    for _ in 0..40 {
        submit(&pool, simple_plan()).await;
    }
    let claims = futures_util::future::join_all((0..8).map(|_| worker.claim(&pool, 5))).await;
    let mut ids: Vec<_> = claims.into_iter().flatten().map(|task| task.id).collect();
    let claimed = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), claimed);
    assert!(worker.claim(&pool, 40).await.len() + claimed == 40);
}

#[tokio::test]
async fn a_worker_gets_only_what_it_can_run() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    submit(&pool, simple_plan()).await;
    let merger = Worker::register(&pool, &[Capability::without_model(Stage::Merge)]).await;
    assert!(merger.claim(&pool, 10).await.is_empty());
}

#[tokio::test]
async fn loaded_models_go_first_within_a_priority_until_another_has_waited_half_a_minute() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::register(&pool, &[transcribe("nano"), transcribe("base")]).await;
    let prefers_base = [
        Wanted {
            loaded: false,
            ..worker.wanted[0]
        },
        worker.wanted[1],
    ];
    for model in ["nano", "base", "base"] {
        submit(&pool, vec![task(transcribe(model), "transcribe", &[])]).await;
    }
    let first = tasks::claim(&pool, worker.id, &prefers_base, 1, 30.0)
        .await
        .unwrap();
    assert_eq!(first[0].model, "base");
    sqlx::query("update ready_tasks set ready_at = ready_at - interval '31 s'")
        .execute(&pool)
        .await
        .unwrap();
    let second = tasks::claim(&pool, worker.id, &prefers_base, 1, 30.0)
        .await
        .unwrap();
    assert_eq!(second[0].model, "nano");
}

#[tokio::test]
async fn a_retryable_failure_is_scheduled_with_backoff_and_then_gives_up() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let job = submit(&pool, simple_plan()).await;
    for attempt in 1..=3 {
        let claimed = worker.claim_one(&pool).await;
        assert_eq!(claimed.attempt, attempt);
        assert_eq!(
            tasks::fail(&pool, claimed.lease(), "disk on fire", true)
                .await
                .unwrap(),
            Outcome::Done
        );
        if attempt < 3 {
            assert_eq!(state(&pool, job, "prepare").await, "scheduled");
            assert_eq!(maintenance::promote_scheduled(&pool, 100).await.unwrap(), 0);
            sqlx::query("update tasks set run_at = dalston_now() where run_at is not null")
                .execute(&pool)
                .await
                .unwrap();
            assert_eq!(maintenance::promote_scheduled(&pool, 100).await.unwrap(), 1);
        }
    }
    let failed = read(&pool, job).await;
    assert_eq!(failed.status, JobStatus::Failed);
    assert_eq!(
        failed.error.as_deref(),
        Some("Task prepare failed: disk on fire")
    );
    for name in ["transcribe", "merge"] {
        assert_eq!(state(&pool, job, name).await, "skipped");
    }
}

#[tokio::test]
async fn a_required_failure_ends_running_siblings_too() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let job = submit(&pool, wide_plan()).await;
    let prepare = worker.claim_one(&pool).await;
    tasks::complete(&pool, prepare.lease(), &answer(json!({})))
        .await
        .unwrap();
    let siblings = worker.claim(&pool, 10).await;
    let (failing, others): (Vec<_>, Vec<_>) = siblings
        .iter()
        .partition(|task| task.name == "transcribe_ch0");
    tasks::fail(&pool, failing[0].lease(), "no such language", false)
        .await
        .unwrap();
    assert_eq!(read(&pool, job).await.status, JobStatus::Failed);
    for other in others {
        assert_eq!(
            tasks::check(&pool, &[other.lease()]).await.unwrap(),
            [LeaseState::Lost]
        );
        assert_eq!(
            tasks::complete(&pool, other.lease(), &answer(json!({})))
                .await
                .unwrap(),
            Outcome::LeaseLost
        );
    }
}

#[tokio::test]
async fn an_optional_failure_is_skipped_and_the_job_goes_on() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let job = submit(&pool, wide_plan()).await;
    let prepare = worker.claim_one(&pool).await;
    tasks::complete(&pool, prepare.lease(), &answer(json!({})))
        .await
        .unwrap();
    for sibling in worker.claim(&pool, 10).await {
        if sibling.stage == Stage::Diarize {
            tasks::fail(&pool, sibling.lease(), "too quiet", false)
                .await
                .unwrap();
        } else {
            tasks::complete(&pool, sibling.lease(), &answer(json!({})))
                .await
                .unwrap();
        }
    }
    let finished = tasks::finished(&pool, job, None).await.unwrap();
    let diarize = finished.iter().find(|task| task.name == "diarize").unwrap();
    assert_eq!(diarize.status, TaskStatus::Skipped);
    assert_eq!(diarize.error.as_deref(), Some("too quiet"));
    assert_eq!(worker.work(&pool).await, ["merge"]);
    assert_eq!(read(&pool, job).await.status, JobStatus::Completed);
}

#[tokio::test]
async fn a_task_given_back_is_ready_again_and_the_attempt_does_not_count() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    submit(&pool, simple_plan()).await;
    let first = worker.claim_one(&pool).await;
    assert_eq!(
        tasks::give_back(&pool, first.lease()).await.unwrap(),
        Outcome::Done
    );
    let second = worker.claim_one(&pool).await;
    assert_eq!((second.id, second.attempt), (first.id, 1));
    assert!(second.lease > first.lease, "the token never repeats");
    assert_eq!(
        tasks::give_back(&pool, first.lease()).await.unwrap(),
        Outcome::LeaseLost
    );
}

#[tokio::test]
async fn a_late_result_of_a_lost_lease_changes_nothing() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let job = submit(&pool, simple_plan()).await;
    let frozen = worker.claim_one(&pool).await;
    expire_leases(&pool).await;
    let rescued = maintenance::rescue_tasks(&pool, 100).await.unwrap();
    assert_eq!((rescued.retried, rescued.failed), (1, 0));
    let again = worker.claim_one(&pool).await;
    assert_eq!((again.id, again.attempt), (frozen.id, 2));

    let late = answer(json!({"late": true}));
    assert_eq!(
        tasks::complete(&pool, frozen.lease(), &late).await.unwrap(),
        Outcome::LeaseLost
    );
    assert_eq!(
        tasks::fail(&pool, frozen.lease(), "late", true)
            .await
            .unwrap(),
        Outcome::LeaseLost
    );
    assert_eq!(state(&pool, job, "prepare").await, "running");
    assert!(tasks::finished(&pool, job, None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_task_whose_workers_die_three_times_fails_with_a_clear_error() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let mut plan = simple_plan();
    plan[0].max_attempts = 10;
    let job = submit(&pool, plan).await;
    for _ in 0..3 {
        worker.claim_one(&pool).await;
        expire_leases(&pool).await;
        maintenance::rescue_tasks(&pool, 100).await.unwrap();
    }
    assert_eq!(
        read(&pool, job).await.error.as_deref(),
        Some("Task prepare failed: the worker died 3 times while running this task")
    );
}

#[tokio::test]
async fn heartbeats_extend_leases_and_record_progress_that_only_grows() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let job = submit(&pool, vec![task(transcribe("nano"), "transcribe", &[])]).await;
    let claimed = worker.claim_one(&pool).await;
    let beat = |done_seconds| {
        vec![(
            claimed.lease(),
            Progress {
                done_seconds,
                total_seconds: 60.0,
            },
        )]
    };
    let end = "select lease_expires_at from running_tasks";
    let before: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar(end).fetch_one(&pool).await.unwrap();
    let states = tasks::extend(&pool, worker.id, &beat(30.0), 300.0)
        .await
        .unwrap();
    assert_eq!(states, [LeaseState::Held]);
    let after: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar(end).fetch_one(&pool).await.unwrap();
    assert!((after - before).num_seconds() > 200);
    assert!((read(&pool, job).await.progress - 0.45).abs() < 1e-9);

    tasks::extend(&pool, worker.id, &beat(12.0), 300.0)
        .await
        .unwrap();
    assert!((read(&pool, job).await.progress - 0.45).abs() < 1e-9);
    let progress: Vec<_> = events::after(&pool, job, 0, 100)
        .await
        .unwrap()
        .into_iter()
        .filter(|event| event.event_type == "progress")
        .collect();
    assert_eq!(progress.len(), 1);
    assert!((progress[0].body["progress"].as_f64().unwrap() - 0.45).abs() < 1e-9);
    // Half of it took as long as it has been claimed.
    let left = progress[0].body["eta_seconds"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&left), "{left}");

    let stranger = tasks::extend(&pool, WorkerId::generate(), &beat(50.0), 300.0)
        .await
        .unwrap();
    assert_eq!(
        stranger,
        [LeaseState::Held],
        "the answer is about the lease"
    );
    assert!((read(&pool, job).await.progress - 0.45).abs() < 1e-9);
}

/// Claims the transcriptions and the diarization of a wide plan, as if they had begun so many seconds ago, and says that
/// half of each transcription is done. Answers the lease of the diarization.
async fn half_transcribed(pool: &PgPool, worker: &Worker, seconds: i32) -> (JobId, Lease) {
    let job = submit(pool, wide_plan()).await;
    let prepare = worker.claim_one(pool).await;
    tasks::complete(pool, prepare.lease(), &answer(json!({})))
        .await
        .unwrap();
    let claimed = worker.claim(pool, 3).await;
    let begun =
        format!("update running_tasks set started_at = dalston_now() - interval '{seconds} s'");
    sqlx::query(sqlx::AssertSqlSafe(begun))
        .execute(pool)
        .await
        .unwrap();
    let half = Progress {
        done_seconds: 30.0,
        total_seconds: 60.0,
    };
    let beats: Vec<_> = claimed
        .iter()
        .filter(|task| task.stage == Stage::Transcribe)
        .map(|task| (task.lease(), half))
        .collect();
    tasks::extend(pool, worker.id, &beats, 300.0).await.unwrap();
    let diarize = claimed.iter().find(|task| task.stage == Stage::Diarize);
    (job, diarize.unwrap().lease())
}

#[tokio::test]
async fn the_end_is_expected_when_every_stage_has_a_rate_of_its_own_or_of_before() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let (job, diarize) = half_transcribed(&pool, &worker, 40).await;
    assert_eq!(read(&pool, job).await.eta_seconds, None);
    let third = Progress {
        done_seconds: 20.0,
        total_seconds: 60.0,
    };
    tasks::extend(&pool, worker.id, &[(diarize, third)], 300.0)
        .await
        .unwrap();
    let eta = read(&pool, job).await.eta_seconds.unwrap();
    // What has passed since it was told is taken off.
    assert!((60.0..90.0).contains(&eta), "{eta}");

    // It took 40 s in all, which is what the next one is believed to take until it has a rate.
    let ended = "select lease, unnest(tasks) from running_tasks";
    let running: Vec<(i64, TaskId)> = sqlx::query_as(ended).fetch_all(&pool).await.unwrap();
    for (token, task_id) in running {
        tasks::complete(&pool, Lease { task_id, token }, &answer(json!({})))
            .await
            .unwrap();
    }
    worker.work(&pool).await;
    let (job, _) = half_transcribed(&pool, &worker, 10).await;
    let eta = read(&pool, job).await.eta_seconds.unwrap();
    assert!((10.0..45.0).contains(&eta), "{eta}");
}

#[tokio::test]
async fn heartbeats_are_answered_in_the_order_asked() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let mut leases = Vec::new();
    for _ in 0..3 {
        submit(&pool, simple_plan()).await;
        leases.push(worker.claim_one(&pool).await);
    }
    let scope = jobs::Scope {
        tenant_id: dalston_schema::TenantId::DEFAULT,
        key_id: None,
    };
    jobs::cancel(&pool, scope, leases[1].job_id).await.unwrap();
    let mut asked: Vec<_> = leases
        .iter()
        .map(|task| (task.lease(), Progress::default()))
        .collect();
    asked[2].0.token += 1;
    let expected = [LeaseState::Held, LeaseState::Cancelled, LeaseState::Lost];
    assert_eq!(
        tasks::extend(&pool, worker.id, &asked, 30.0).await.unwrap(),
        expected
    );
    let leases: Vec<_> = asked.iter().map(|(lease, _)| *lease).collect();
    assert_eq!(tasks::check(&pool, &leases).await.unwrap(), expected);
}

#[tokio::test]
async fn many_tasks_are_completed_in_one_call_each_by_its_own_lease() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    for _ in 0..3 {
        submit(&pool, simple_plan()).await;
    }
    let claimed = worker.claim(&pool, 3).await;
    let mut handed: Vec<_> = claimed
        .iter()
        .map(|task| (task.lease(), json!({"name": task.name})))
        .collect();
    handed[1].0.token += 1;
    assert_eq!(
        tasks::complete_many(&pool, &handed).await.unwrap(),
        [Outcome::Done, Outcome::LeaseLost, Outcome::Done]
    );
    assert_eq!(capabilities().len(), worker.wanted.len());
    assert_eq!(worker.claim(&pool, 10).await.len(), 2);
}

/// prepare, and this many chunks after it.
fn chunks(count: usize) -> Vec<dalston_schema::task::NewTask> {
    let mut plan = vec![task(
        Capability::without_model(Stage::Prepare),
        "prepare",
        &[],
    )];
    for index in 0..count {
        let name = format!("transcribe_c{index:03}");
        plan.push(task(transcribe("nano"), &name, &[&plan[0]]));
    }
    plan
}

#[tokio::test]
async fn siblings_that_share_a_row_of_the_queue_are_claimed_one_by_one_at_once() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let job = submit(&pool, chunks(20)).await;
    let prepare = worker.claim_one(&pool).await;
    tasks::complete(&pool, prepare.lease(), &answer(json!({})))
        .await
        .unwrap();
    let claims = futures_util::future::join_all((0..20).map(|_| worker.claim(&pool, 1))).await;
    let mut names: Vec<_> = claims.iter().flatten().map(|task| &task.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(
        names.len(),
        20,
        "none waits while there is work, none twice"
    );

    // The front of a row that is gone comes back while the rest of it runs.
    let first = claims.iter().flatten().next().unwrap();
    tasks::give_back(&pool, first.lease()).await.unwrap();
    assert_eq!(state(&pool, job, &first.name).await, "ready");
    assert_eq!(worker.claim_one(&pool).await.id, first.id);
}

#[tokio::test]
async fn what_is_left_of_a_partly_ended_lease_is_still_held() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    submit(&pool, chunks(3)).await;
    let prepare = worker.claim_one(&pool).await;
    tasks::complete(&pool, prepare.lease(), &answer(json!({})))
        .await
        .unwrap();
    let claimed = worker.claim(&pool, 3).await;
    tasks::complete(&pool, claimed[1].lease(), &answer(json!({})))
        .await
        .unwrap();
    let leases: Vec<_> = claimed.iter().map(|task| task.lease()).collect();
    assert_eq!(
        tasks::check(&pool, &leases).await.unwrap(),
        [LeaseState::Held, LeaseState::Lost, LeaseState::Held]
    );
    expire_leases(&pool).await;
    let rescued = maintenance::rescue_tasks(&pool, 100).await.unwrap();
    assert_eq!((rescued.retried, rescued.failed), (2, 0));
    assert_eq!(worker.claim(&pool, 5).await.len(), 2);
}

#[tokio::test]
async fn tasks_completed_together_are_events_of_their_own() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let job = submit(&pool, chunks(3)).await;
    let prepare = worker.claim_one(&pool).await;
    tasks::complete(&pool, prepare.lease(), &answer(json!({})))
        .await
        .unwrap();
    let claimed = worker.claim(&pool, 3).await;
    let finished: Vec<_> = claimed
        .iter()
        .map(|task| (task.lease(), json!({})))
        .collect();
    tasks::complete_many(&pool, &finished).await.unwrap();

    let all = events::after(&pool, job, 0, 100).await.unwrap();
    let done: Vec<_> = all
        .iter()
        .filter(|event| event.event_type == "task.completed")
        .collect();
    assert_eq!(done.len(), 4);
    let mut names: Vec<_> = done[1..]
        .iter()
        .map(|event| event.body["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["transcribe_c000", "transcribe_c001", "transcribe_c002"]
    );
    assert_eq!(done[1].body["stage"], "transcribe");
    assert!(all.windows(2).all(|pair| pair[0].id < pair[1].id));
    // A reader that stopped in the middle of them misses none and gets none twice.
    let rest = events::after(&pool, job, done[2].id, 100).await.unwrap();
    assert_eq!(rest, all[all.len() - rest.len()..]);
    assert_eq!(rest[0].id, done[3].id);
    let newest = events::newest_many(&pool, &[job]).await.unwrap();
    assert_eq!(newest[0].0, job);
    assert!(newest[0].1 >= all[all.len() - 1].id);
}

#[tokio::test]
async fn an_event_that_is_committed_late_is_waited_for_and_not_missed() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let job = submit(&pool, simple_plan()).await;
    let told = events::after(&pool, job, 0, 10).await.unwrap();
    let mut late = pool.begin().await.unwrap();
    sqlx::query("insert into job_log (job_id, at, type, body) values ($1, now(), 'late', '{}')")
        .bind(job)
        .execute(&mut *late)
        .await
        .unwrap();
    events::append(&pool, job, "early", &json!({}))
        .await
        .unwrap();
    let last = told[told.len() - 1].id;
    let mut reading = Box::pin(events::after(&pool, job, last, 10));
    let waiting = tokio::time::timeout(Duration::from_millis(50), &mut reading).await;
    assert!(waiting.is_err(), "{waiting:?}");
    late.commit().await.unwrap();
    let news = reading.await.unwrap();
    let kinds: Vec<&str> = news.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(kinds, ["late", "early"]);
}
