//! Throughput: no-op tasks through submit, claim in batches and complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dalston_schema::WorkerId;
use dalston_schema::db::{PgPool, jobs, tasks};
use dalston_test_postgres::Server;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use tokio::sync::Barrier;

use crate::cpu::{Cost, Stopwatch, median};
use crate::report::Row;
use crate::{Sizes, floor, plan};

/// Rounds of each, taking turns; medians are compared.
const ROUNDS: usize = 5;
/// Batches that each worker does before the clock starts: statistics have just changed, and every connection plans its
/// statements anew.
const WARM_UP: usize = 2;
/// The shapes of small jobs run with this part of the tasks: submitting them is most of the time.
const SMALL_JOBS_PART: usize = 5;

/// How long a worker that found nothing waits before it looks again.
const IDLE: Duration = Duration::from_millis(1);

/// Drains jobs of three shapes and holds each against the floor.
pub(crate) async fn compare(server: &Server, pool: &PgPool, sizes: Sizes) -> Result<Vec<Row>> {
    let mut floors = Vec::new();
    let mut shapes = [100, 3, 1].map(|tasks_per_job| (tasks_per_job, Vec::new(), Vec::new()));
    for _ in 0..ROUNDS {
        floors.push(floor::drain(server, pool, sizes).await?);
        for (tasks_per_job, submits, drains) in &mut shapes {
            let part = if *tasks_per_job == 100 {
                1
            } else {
                SMALL_JOBS_PART
            };
            let (submit, cost) =
                drain(server, pool, sizes, *tasks_per_job, sizes.tasks / part).await?;
            submits.push(submit);
            drains.push(cost);
        }
    }
    let floor = Cost::median(&floors);
    let mut rows = Vec::new();
    for (tasks_per_job, submits, drains) in shapes {
        let (submitted, drained) = (median(submits.into_iter()), Cost::median(&drains));
        let (suffix, target) = match tasks_per_job {
            100 => (String::new(), ">= 0.5"),
            n => (format!("_{n}_task_jobs"), ""),
        };
        rows.push(Row::new(
            format!("throughput_vs_floor{suffix}"),
            drained.rate,
            floor.rate,
            "tasks/s",
            target,
        ));
        rows.push(Row::new(
            format!("server_cpu_vs_floor{suffix}"),
            drained.server,
            floor.server,
            "µs/task",
            "",
        ));
        rows.push(Row::new(
            format!("client_cpu_vs_floor{suffix}"),
            drained.client,
            floor.client,
            "µs/task",
            "",
        ));
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

/// Submits and drains about `tasks` tasks: tasks submitted a second, and what draining took.
async fn drain(
    server: &Server,
    pool: &PgPool,
    sizes: Sizes,
    tasks_per_job: usize,
    tasks: usize,
) -> Result<(f64, Cost)> {
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

    for statement in [
        "vacuum analyze tasks",
        "vacuum analyze ready_tasks",
        "vacuum analyze running_tasks",
        "vacuum analyze jobs",
        "checkpoint",
    ] {
        sqlx::raw_sql(statement).execute(pool).await?;
    }
    let done = Arc::new(AtomicUsize::new(0));
    let start = Arc::new(Barrier::new(sizes.workers + 1));
    let workers: Vec<_> = (0..sizes.workers)
        .map(|_| {
            let (done, start) = (Arc::clone(&done), Arc::clone(&start));
            tokio::spawn(work(pool.clone(), sizes.batch, total, done, start))
        })
        .collect();
    // All are warm and between two batches; then all go.
    start.wait().await;
    let left = total - done.load(Ordering::Relaxed);
    let stopwatch = Stopwatch::start(server)?;
    start.wait().await;
    for worker in workers {
        worker.await??;
    }
    let drained = stopwatch.stop(left)?;
    let open: i64 = sqlx::query_scalar("select count(*) from jobs where status <> 'completed'")
        .fetch_one(pool)
        .await?;
    ensure!(open == 0, "{open} jobs were not completed");
    Ok((submitted, drained))
}

async fn work(
    pool: PgPool,
    batch: usize,
    total: usize,
    done: Arc<AtomicUsize>,
    start: Arc<Barrier>,
) -> Result<()> {
    let (worker, wanted) = plan::worker(&pool).await?;
    let batch = i32::try_from(batch)?;
    // The barriers are passed whatever happens, or the others would wait for ever.
    let mut warm = Ok(0);
    for _ in 0..WARM_UP {
        warm = warm.and(finish_batch(&pool, worker, &wanted, batch, &done).await);
    }
    start.wait().await;
    start.wait().await;
    warm?;
    while done.load(Ordering::Relaxed) < total {
        if finish_batch(&pool, worker, &wanted, batch, &done).await? == 0 {
            // Nothing is ready until another worker completes what that waits for.
            tokio::time::sleep(IDLE).await;
        }
    }
    Ok(())
}

/// Claims a batch and completes it; how many tasks it had.
async fn finish_batch(
    pool: &PgPool,
    worker: WorkerId,
    wanted: &[tasks::Wanted],
    batch: i32,
    done: &AtomicUsize,
) -> Result<usize> {
    let claimed = tasks::claim(pool, worker, wanted, batch, 30.0).await?;
    let finished: Vec<_> = claimed
        .iter()
        .map(|task| (task.lease(), Value::Null))
        .collect();
    let outcomes = tasks::complete_many(pool, &finished).await?;
    ensure!(
        outcomes
            .iter()
            .all(|outcome| *outcome == tasks::Outcome::Done),
        "a lease was lost"
    );
    done.fetch_add(outcomes.len(), Ordering::Relaxed);
    Ok(outcomes.len())
}
