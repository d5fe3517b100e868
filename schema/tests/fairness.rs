//! Fairness between tenants, priorities, and caps.

use dalston_schema::db::{PgPool, jobs, maintenance, tasks};
use dalston_schema::task::ClaimedTask;
use dalston_schema::{Capability, JobId, Stage, TenantId};
use dalston_test_postgres::TestDatabase;
use serde_json::json;

use crate::plan::{Worker, answer, job, submit, task};

fn one_task() -> Vec<dalston_schema::task::NewTask> {
    vec![task(
        Capability::without_model(Stage::Prepare),
        "prepare",
        &[],
    )]
}

async fn tenant(pool: &PgPool, weight: f32) -> TenantId {
    let id = TenantId::generate();
    sqlx::query("insert into tenants (id, name, weight) values ($1, $1::text, $2)")
        .bind(id)
        .bind(weight)
        .execute(pool)
        .await
        .unwrap();
    id
}

async fn submit_for(pool: &PgPool, tenant: TenantId) -> JobId {
    let mut new = job(one_task());
    new.tenant_id = tenant;
    jobs::submit(pool, &new, None).await.unwrap();
    new.id
}

async fn cap(pool: &PgPool, tenant: TenantId, most: Option<i32>) {
    sqlx::query("select set_tenant_cap($1, $2)")
        .bind(tenant)
        .bind(most)
        .execute(pool)
        .await
        .unwrap();
}

/// Whose each of these tasks is.
async fn tenants_of(pool: &PgPool, claimed: &[ClaimedTask]) -> Vec<TenantId> {
    let ids: Vec<_> = claimed.iter().map(|task| task.id).collect();
    sqlx::query_scalar("select tenant_id from tasks where id = any($1)")
        .bind(ids)
        .fetch_all(pool)
        .await
        .unwrap()
}

async fn finish(pool: &PgPool, task: &ClaimedTask) {
    tasks::complete(pool, task.lease(), &answer(json!({})))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_tenant_with_many_queued_jobs_does_not_starve_one_with_few() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let (busy, light) = (tenant(&pool, 1.0).await, tenant(&pool, 1.0).await);
    for _ in 0..100 {
        submit_for(&pool, busy).await;
    }
    for _ in 0..20 {
        finish(&pool, &worker.claim_one(&pool).await).await;
    }
    for task in worker.claim(&pool, 5).await {
        maintenance::advance_fair_clock(&pool).await.unwrap();
        finish(&pool, &task).await;
    }
    for _ in 0..5 {
        submit_for(&pool, light).await;
    }
    let next = tenants_of(&pool, &worker.claim(&pool, 12).await).await;
    let served = next.iter().filter(|tenant| **tenant == light).count();
    assert_eq!(served, 5, "all of the light tenant's among the next twelve");
    assert!(
        next.iter().filter(|tenant| **tenant == busy).count() >= 5,
        "and the busy one is not starved either: {next:?}"
    );
}

#[tokio::test]
async fn a_heavier_tenant_gets_its_share() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let (double, single) = (tenant(&pool, 2.0).await, tenant(&pool, 1.0).await);
    for _ in 0..40 {
        submit_for(&pool, single).await;
        submit_for(&pool, double).await;
    }
    let served = tenants_of(&pool, &worker.claim(&pool, 30).await)
        .await
        .iter()
        .filter(|tenant| **tenant == double)
        .count();
    assert!((19..=21).contains(&served), "{served} of 30");
}

#[tokio::test]
async fn priority_goes_before_everything_and_can_be_changed() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let first = submit(&pool, one_task()).await;
    let mut urgent = job(one_task());
    urgent.priority = 10;
    jobs::submit(&pool, &urgent, None).await.unwrap();
    let late = submit(&pool, one_task()).await;
    let moved: i32 = sqlx::query_scalar("select set_priority($1, 5::smallint)")
        .bind(late)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(moved, 1);
    let order: Vec<JobId> = worker
        .claim(&pool, 3)
        .await
        .iter()
        .map(|task| task.job_id)
        .collect();
    assert_eq!(order, [late, urgent.id, first]);
}

#[tokio::test]
async fn a_capped_tenant_never_has_more_running_than_its_cap() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let small = tenant(&pool, 1.0).await;
    cap(&pool, small, Some(3)).await;
    let submits = (0..20).map(|_| submit_for(&pool, small));
    futures_util::future::join_all(submits).await;

    let mut done = 0;
    loop {
        let claimed = worker.claim(&pool, 10).await;
        if claimed.is_empty() {
            break;
        }
        assert!(claimed.len() <= 3, "{} at once", claimed.len());
        // All at once: each completion makes room for exactly one.
        futures_util::future::join_all(claimed.iter().map(|task| finish(&pool, task))).await;
        done += claimed.len();
        let active: i64 = sqlx::query_scalar(
            "select count(*) from current_tasks where tenant_id = $1 and state in (1, 2)",
        )
        .bind(small)
        .fetch_one(&pool)
        .await
        .unwrap();
        assert!(active <= 3);
    }
    assert_eq!(done, 20);
}

#[tokio::test]
async fn every_way_out_of_a_slot_makes_room_for_a_held_task() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let small = tenant(&pool, 1.0).await;
    cap(&pool, small, Some(1)).await;
    for _ in 0..6 {
        submit_for(&pool, small).await;
    }
    let scope = jobs::Scope {
        tenant_id: small,
        key_id: None,
    };
    finish(&pool, &worker.claim_one(&pool).await).await;
    let failing = worker.claim_one(&pool).await;
    tasks::fail(&pool, failing.lease(), "no", false)
        .await
        .unwrap();
    let cancelled = worker.claim_one(&pool).await;
    jobs::cancel(&pool, scope, cancelled.job_id).await.unwrap();
    tasks::give_back(&pool, cancelled.lease()).await.unwrap();
    let backing_off = worker.claim_one(&pool).await;
    tasks::fail(&pool, backing_off.lease(), "later", true)
        .await
        .unwrap();
    worker.claim_one(&pool).await;
    crate::plan::expire_leases(&pool).await;
    maintenance::rescue_tasks(&pool, 10).await.unwrap();
    let again = worker.claim(&pool, 10).await;
    assert_eq!(again.len(), 1, "still one at a time");

    cap(&pool, small, None).await;
    assert_eq!(worker.claim(&pool, 10).await.len(), 1, "the held one");
    let held: i64 = sqlx::query_scalar("select count(*) from current_tasks where state = 8")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(held, 0);
}
