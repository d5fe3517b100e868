//! The registry of models: pulls, removals, and what workers say they have.

use std::time::Duration;

use dalston_schema::WorkerId;
use dalston_schema::capability::CapabilityFilter;
use dalston_schema::catalogue;
use dalston_schema::db::models::{self, AnnouncedModel, PullOutcome, PulledModel, RemoveOutcome};
use dalston_schema::db::workers::{self, WorkerBeat};
use dalston_schema::db::{PgPool, maintenance};
use dalston_test_postgres::TestDatabase;
use serde_json::json;

use crate::plan::{Worker, simple_plan, submit};

const MODEL: &str = "org/model";

fn on_disk(model: &str) -> AnnouncedModel {
    AnnouncedModel {
        model: model.to_owned(),
        engine: "whisper".to_owned(),
        stage: "transcribe".to_owned(),
        size_bytes: 100,
        component: false,
        folder: format!("/models/{model}"),
        since: "2026-01-01T00:00:00Z".parse().unwrap(),
    }
}

fn pulled() -> PulledModel {
    PulledModel {
        engine: "whisper".to_owned(),
        stage: "transcribe".to_owned(),
        size_bytes: 100,
    }
}

#[tokio::test]
async fn a_pull_is_taken_by_one_worker_told_of_and_ended() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let (first, second) = (Worker::able(&pool).await.id, Worker::able(&pool).await.id);
    let request = async |force| models::request_pull(&pool, MODEL, None, Some(90), force).await;
    let status = async || models::get(&pool, MODEL).await.unwrap().unwrap().status;

    assert!(models::get(&pool, MODEL).await.unwrap().is_none());
    assert_eq!(request(false).await.unwrap(), PullOutcome::Started);
    assert_eq!(request(true).await.unwrap(), PullOutcome::InProgress);
    let (one, other) = tokio::join!(
        models::claim_pull(&pool, first, &[], 30.0),
        models::claim_pull(&pool, second, &[], 30.0)
    );
    let mut claimed: Vec<_> = [one.unwrap(), other.unwrap()]
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(claimed.len(), 1);
    let pull = claimed.remove(0);
    assert_eq!(pull.id, MODEL);

    assert!(
        models::extend_pull(&pool, &pull, 40, 100, 30.0)
            .await
            .unwrap()
    );
    let told = models::get(&pool, MODEL).await.unwrap().unwrap();
    assert_eq!(
        (
            told.status.as_str(),
            told.downloaded_bytes,
            told.expected_bytes
        ),
        ("downloading", Some(40), Some(100))
    );
    assert!(
        models::announce(&pool, first, &[on_disk(MODEL)])
            .await
            .unwrap()
    );
    assert!(models::end_pull(&pool, &pull, Ok(&pulled())).await.unwrap());
    assert!(!models::end_pull(&pool, &pull, Err("late")).await.unwrap());
    let ready = models::get(&pool, MODEL).await.unwrap().unwrap();
    assert_eq!((ready.status.as_str(), ready.workers), ("ready", 1));
    assert_eq!(ready.size_bytes, Some(100));
    assert_eq!(request(false).await.unwrap(), PullOutcome::Ready);
    assert_eq!(request(true).await.unwrap(), PullOutcome::Started);

    let pull = models::claim_pull(&pool, second, &[], 30.0)
        .await
        .unwrap()
        .unwrap();
    assert!(pull.force);
    models::end_pull(&pool, &pull, Err("the hub is away"))
        .await
        .unwrap();
    // The first worker has it still.
    assert_eq!(status().await, "ready");
    workers::deregister(&pool, first).await.unwrap();
    let failed = models::get(&pool, MODEL).await.unwrap().unwrap();
    assert_eq!(failed.status, "failed");
    assert_eq!(failed.error.as_deref(), Some("the hub is away"));
}

#[tokio::test]
async fn a_pull_whose_worker_dies_goes_to_another_and_fails_after_three_deaths() {
    let mut database = TestDatabase::create().await;
    database.set_clock("2030-01-01 12:00Z").await;
    let mut pool = database.pool.clone();
    let worker = WorkerId::generate();
    models::request_pull(&pool, MODEL, Some(("whisper", "transcribe")), None, false)
        .await
        .unwrap();
    let mut last = None;
    for minute in 1..=3 {
        let pull = models::claim_pull(&pool, worker, &[], 30.0).await.unwrap();
        let before = last.replace(pull.unwrap());
        assert!(
            models::claim_pull(&pool, worker, &[], 30.0)
                .await
                .unwrap()
                .is_none()
        );
        if let Some(before) = before {
            assert!(
                !models::extend_pull(&pool, &before, 1, 2, 30.0)
                    .await
                    .unwrap()
            );
        }
        database
            .set_clock(&format!("2030-01-01 12:0{minute}Z"))
            .await;
        pool = database.pool.clone();
    }
    assert!(
        models::claim_pull(&pool, worker, &[], 30.0)
            .await
            .unwrap()
            .is_none()
    );
    let failed = models::get(&pool, MODEL).await.unwrap().unwrap();
    assert_eq!(failed.status, "failed");

    // One that was given back in good order has not cost an attempt.
    models::request_pull(&pool, MODEL, None, None, false)
        .await
        .unwrap();
    for _ in 0..5 {
        let pull = models::claim_pull(&pool, worker, &[], 30.0)
            .await
            .unwrap()
            .unwrap();
        assert!(models::give_back_pull(&pool, &pull).await.unwrap());
    }
}

#[tokio::test]
async fn a_model_that_tasks_wait_for_is_pulled_once_and_again_after_a_pause() {
    let mut database = TestDatabase::create().await;
    database.set_clock("2030-01-01 12:00Z").await;
    let pool = database.pool.clone();
    let entry = catalogue::entry("onnx-community/whisper-base_timestamped").unwrap();
    let pause = Duration::from_secs(60);
    let mut plan = simple_plan();
    plan[1].model.clone_from(&entry.id);
    submit(&pool, plan).await;
    // It needs the prepared audio first.
    assert!(models::needed(&pool).await.unwrap().is_empty());
    let worker = Worker::able(&pool).await;
    worker.work(&pool).await;
    assert_eq!(models::needed(&pool).await.unwrap(), [entry.id.as_str()]);

    let asked = async |pool: &PgPool| models::pull_needed(pool, entry, pause).await.unwrap();
    let both = tokio::join!(asked(&pool), asked(&pool));
    assert!(both.0 != both.1, "{both:?}");
    let claimed = async |pool: &PgPool, filters: &[&str]| {
        let filters: Vec<CapabilityFilter> = filters.iter().map(|f| f.parse().unwrap()).collect();
        models::claim_pull(pool, worker.id, &filters, 30.0)
            .await
            .unwrap()
    };
    for other in ["align", "transcribe/parakeet", "transcribe/whisper/nano"] {
        assert_eq!(claimed(&pool, &["merge", other]).await, None, "{other}");
    }
    let pull = claimed(&pool, &["merge", "transcribe/whisper"])
        .await
        .unwrap();

    // While something is heard of it nobody gives the tasks up; a pull that failed is the reason they are told.
    database.set_clock("2030-01-01 12:10Z").await;
    let pool = database.pool.clone();
    let wait = Duration::from_secs(300);
    let given_up = async |pool: &PgPool| maintenance::fail_unserved_tasks(pool, wait, 10).await;
    assert!(models::extend_pull(&pool, &pull, 1, 2, 30.0).await.unwrap());
    assert_eq!(given_up(&pool).await.unwrap(), 0);
    models::end_pull(&pool, &pull, Err("the hub is away"))
        .await
        .unwrap();
    assert!(!asked(&pool).await);
    database.set_clock("2030-01-01 12:11Z").await;
    let pool = database.pool.clone();
    assert!(asked(&pool).await);
    let pull = claimed(&pool, &[]).await.unwrap();
    models::end_pull(&pool, &pull, Err("the hub is away"))
        .await
        .unwrap();
    assert_eq!(given_up(&pool).await.unwrap(), 1);
    let error: String = sqlx::query_scalar("select error from jobs")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(
        error.ends_with("could not be pulled: the hub is away"),
        "{error}"
    );
}

#[tokio::test]
async fn a_removal_is_refused_while_used_carried_out_by_workers_and_then_forgotten() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let removal = async |purge| models::remove(&pool, "nano", purge).await.unwrap();
    assert_eq!(removal(false).await, RemoveOutcome::Missing);
    models::announce(&pool, worker.id, &[on_disk("nano")])
        .await
        .unwrap();
    submit(&pool, simple_plan()).await;
    assert_eq!(removal(false).await, RemoveOutcome::Used);
    worker.work(&pool).await;

    assert_eq!(removal(false).await, RemoveOutcome::Removed);
    assert_eq!(models::to_remove(&pool).await.unwrap(), ["nano"]);
    let removing = models::get(&pool, "nano").await.unwrap().unwrap();
    assert_eq!(
        (removing.status.as_str(), removing.removing),
        ("not_downloaded", true)
    );
    models::announce(&pool, worker.id, &[]).await.unwrap();
    assert!(models::to_remove(&pool).await.unwrap().is_empty());
    assert!(models::get(&pool, "nano").await.unwrap().is_none());

    // A pull that is under way is stopped.
    models::request_pull(&pool, "nano", None, None, false)
        .await
        .unwrap();
    let pull = models::claim_pull(&pool, worker.id, &[], 30.0)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(removal(true).await, RemoveOutcome::Removed);
    assert!(!models::extend_pull(&pool, &pull, 1, 2, 30.0).await.unwrap());
    assert!(!models::end_pull(&pool, &pull, Ok(&pulled())).await.unwrap());
}

#[tokio::test]
async fn only_one_worker_copies_a_model_to_the_object_store() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await.id;
    let claim = async || {
        models::claim_copy(&pool, worker, &on_disk(MODEL), 30.0)
            .await
            .unwrap()
    };
    let first = claim().await.unwrap();
    assert_eq!(claim().await, None);
    assert!(models::end_copy(&pool, MODEL, first, None).await.unwrap());
    let again = claim().await.unwrap();
    assert!(
        !models::end_copy(&pool, MODEL, first, Some(&json!({})))
            .await
            .unwrap()
    );
    let manifest = json!({"id": MODEL});
    assert!(
        models::end_copy(&pool, MODEL, again, Some(&manifest))
            .await
            .unwrap()
    );
    assert_eq!(claim().await, None);
    let shared = models::in_object_store(&pool).await.unwrap();
    assert_eq!(shared, [(MODEL.to_owned(), manifest)]);
    models::remove(&pool, MODEL, false).await.unwrap();
    assert!(models::in_object_store(&pool).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_users_and_the_hub_say_is_kept_and_a_sync_tells_what_is_there() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await.id;
    models::edit(&pool, MODEL, &json!({"name": "Ours", "languages": ["de"]}))
        .await
        .unwrap();
    models::edit(&pool, MODEL, &json!({"languages": ["de", "nl"]}))
        .await
        .unwrap();
    models::describe(
        &pool,
        MODEL,
        Some(("whisper", "transcribe")),
        &json!({"likes": 3}),
    )
    .await
    .unwrap();
    let said = models::get(&pool, MODEL).await.unwrap().unwrap();
    assert_eq!(
        said.overrides,
        json!({"name": "Ours", "languages": ["de", "nl"]})
    );
    assert_eq!(
        (said.hub, said.engine.as_deref()),
        (json!({"likes": 3}), Some("whisper"))
    );

    models::announce(&pool, worker, &[on_disk(MODEL), on_disk("other")])
        .await
        .unwrap();
    assert_eq!(models::sync(&pool).await.unwrap(), (2, 0));
    assert_eq!(models::sync(&pool).await.unwrap(), (0, 2));
    models::announce(&pool, worker, &[on_disk("other")])
        .await
        .unwrap();
    assert_eq!(models::sync(&pool).await.unwrap(), (1, 1));

    let beat = WorkerBeat {
        loaded_models: vec![("other".to_owned(), None)],
        active_tasks: 1,
    };
    workers::heartbeat(&pool, worker, &beat).await.unwrap();
    let used = models::get(&pool, "other").await.unwrap().unwrap();
    assert!(used.last_used_at.is_some());
}
