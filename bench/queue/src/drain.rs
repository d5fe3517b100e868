//! Throughput: no-op tasks through submit, claim in batches and complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use dalston_schema::db::{PgPool, jobs, tasks};
use dalston_test_postgres::Server;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use crate::report::Row;
use crate::{Sizes, floor, plan};

/// Rounds of each; the best of ours is held against the best of the floor's.
const ROUNDS: usize = 2;
/// The shapes of small jobs run with this part of the tasks: submitting them is most of the time.
const SMALL_JOBS_PART: usize = 5;

/// Drains jobs of three shapes and holds each against the floor.
pub(crate) async fn compare(server: &Server, pool: &PgPool, sizes: Sizes) -> Result<Vec<Row>> {
    let mut floor = 0_f64;
    let mut shapes = [(100, 0_f64, 0_f64), (3, 0.0, 0.0), (1, 0.0, 0.0)];
    for _ in 0..ROUNDS {
        floor = floor.max(floor::rate(server, pool, sizes).await?);
        for (tasks_per_job, submitted, drained) in &mut shapes {
            let part = if *tasks_per_job == 100 {
                1
            } else {
                SMALL_JOBS_PART
            };
            let rates = drain(pool, sizes, *tasks_per_job, sizes.tasks / part).await?;
            *submitted = submitted.max(rates.0);
            *drained = drained.max(rates.1);
        }
    }
    let mut rows = Vec::new();
    for (tasks_per_job, submitted, drained) in shapes {
        let name = match tasks_per_job {
            100 => "throughput_vs_floor".to_owned(),
            n => format!("throughput_vs_floor_{n}_task_jobs"),
        };
        let target = if tasks_per_job == 100 { ">= 0.5" } else { "" };
        rows.push(Row::new(name, drained, floor, "tasks/s", target));
        rows.push(Row::new(
            format!("submit_{tasks_per_job}_task_jobs"),
            submitted,
            submitted / tasks_per_job as f64,
            "tasks, jobs/s",
            "",
        ));
    }
    Ok(rows)
}

/// Submits and drains about `tasks` tasks; tasks submitted and tasks drained a second.
async fn drain(
    pool: &PgPool,
    sizes: Sizes,
    tasks_per_job: usize,
    tasks: usize,
) -> Result<(f64, f64)> {
    let jobs = tasks / tasks_per_job;
    let total = jobs * tasks_per_job;
    let plans: Vec<_> = (0..jobs).map(|_| plan::job(tasks_per_job)).collect();
    let begin = Instant::now();
    stream::iter(&plans)
        .map(|job| jobs::submit(pool, job, None))
        .buffer_unordered(sizes.workers)
        .try_collect::<Vec<_>>()
        .await?;
    let submitted = total as f64 / begin.elapsed().as_secs_f64();

    for statement in ["vacuum analyze tasks", "vacuum analyze jobs", "checkpoint"] {
        sqlx::raw_sql(statement).execute(pool).await?;
    }
    let done = Arc::new(AtomicUsize::new(0));
    let begin = Instant::now();
    let workers: Vec<_> = (0..sizes.workers)
        .map(|_| tokio::spawn(work(pool.clone(), sizes.batch, total, Arc::clone(&done))))
        .collect();
    for worker in workers {
        worker.await??;
    }
    let drained = total as f64 / begin.elapsed().as_secs_f64();
    let open: i64 = sqlx::query_scalar("select count(*) from jobs where status <> 'completed'")
        .fetch_one(pool)
        .await?;
    ensure!(open == 0, "{open} jobs were not completed");
    Ok((submitted, drained))
}

async fn work(pool: PgPool, batch: usize, total: usize, done: Arc<AtomicUsize>) -> Result<()> {
    let (worker, wanted) = plan::worker(&pool).await?;
    while done.load(Ordering::Relaxed) < total {
        let claimed = tasks::claim(&pool, worker, &wanted, i32::try_from(batch)?, 30.0).await?;
        if claimed.is_empty() {
            tokio::task::yield_now().await;
            continue;
        }
        let finished: Vec<_> = claimed
            .iter()
            .map(|task| (task.lease(), Value::Null))
            .collect();
        let outcomes = tasks::complete_many(&pool, &finished).await?;
        ensure!(
            outcomes
                .iter()
                .all(|outcome| *outcome == tasks::Outcome::Done),
            "a lease was lost"
        );
        done.fetch_add(outcomes.len(), Ordering::Relaxed);
    }
    Ok(())
}
