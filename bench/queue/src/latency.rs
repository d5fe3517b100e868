//! Latency on an idle queue: from the call of submit to the worker that was asleep holding the task.

use std::time::{Duration, Instant};

use anyhow::Result;
use dalston_schema::db::notify::Wakeups;
use dalston_schema::db::{PgPool, jobs, tasks};
use dalston_test_postgres::Server;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::report::Row;
use crate::{Sizes, plan};

/// Targets in milliseconds, the reference of these rows.
const TARGET_P50: f64 = 5.0;
const TARGET_P99: f64 = 25.0;

pub(crate) async fn measure(
    server: &Server,
    database: &str,
    pool: &PgPool,
    sizes: Sizes,
) -> Result<Vec<Row>> {
    let (started, mut starts) = mpsc::channel(1);
    let wakeups = Wakeups::for_tasks(&server.config(database));
    let worker = tokio::spawn(sleep_and_claim(pool.clone(), wakeups, started));

    let mut samples = Vec::with_capacity(sizes.samples);
    for round in 0..sizes.samples + 20 {
        let job = plan::job(1);
        let begin = Instant::now();
        jobs::submit(pool, &job, None).await?;
        let Some(start) = starts.recv().await else {
            break;
        };
        // The first rounds warm caches and plans.
        if round >= 20 {
            samples.push(Instant::duration_since(&start, begin).as_secs_f64() * 1e3);
        }
        // Longer than the time in which announcements are gathered: the queue is idle again.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    drop(starts);
    worker.abort();
    samples.sort_by(f64::total_cmp);
    let percentile = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize];
    Ok(vec![
        Row::new(
            "insert_to_start_p50",
            percentile(0.5),
            TARGET_P50,
            "ms",
            "< 1",
        ),
        Row::new(
            "insert_to_start_p99",
            percentile(0.99),
            TARGET_P99,
            "ms",
            "< 1",
        ),
    ])
}

async fn sleep_and_claim(
    pool: PgPool,
    mut wakeups: Wakeups<i32>,
    started: mpsc::Sender<Instant>,
) -> Result<()> {
    let (worker, wanted) = plan::worker(&pool).await?;
    loop {
        let claimed = tasks::claim(&pool, worker, &wanted, 1, 30.0).await?;
        let Some(task) = claimed.first() else {
            wakeups.wait(Duration::from_secs(1)).await;
            continue;
        };
        let now = Instant::now();
        tasks::complete_many(&pool, &[(task.lease(), Value::Null)]).await?;
        if started.send(now).await.is_err() {
            return Ok(());
        }
    }
}
