//! The task engine on a PostgreSQL of its own, beside the floor of that very server: a bare table from which pgbench
//! claims and deletes with the same batch size. Prints a table and writes `bench/out/queue.json`.
//!
//! Sizes come from the environment: `DALSTON_BENCH_TASKS` (20,000), `DALSTON_BENCH_BATCH` (50), `DALSTON_BENCH_WORKERS`
//! (10), `DALSTON_BENCH_QUEUED` (1,000,000), `DALSTON_BENCH_FINISHED` (10,000,000), `DALSTON_BENCH_SAMPLES` (500).
#![allow(
    clippy::print_stdout,
    reason = "a benchmark talks to whoever started it"
)]

mod cpu;
mod depth;
mod drain;
mod floor;
mod latency;
mod plan;
mod report;

use anyhow::{Context, Result};
use dalston_schema::db::{self, DatabaseConfig, PgPool};
use dalston_test_postgres::{Durability, Server};

use report::Row;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    tasks: usize,
    batch: usize,
    workers: usize,
    queued: u64,
    finished: u64,
    samples: usize,
}

impl Sizes {
    fn from_env() -> Result<Self> {
        Ok(Self {
            tasks: number("DALSTON_BENCH_TASKS", 20_000)?,
            batch: number("DALSTON_BENCH_BATCH", 50)?,
            workers: number("DALSTON_BENCH_WORKERS", 10)?,
            queued: number("DALSTON_BENCH_QUEUED", 1_000_000)?,
            finished: number("DALSTON_BENCH_FINISHED", 10_000_000)?,
            samples: number("DALSTON_BENCH_SAMPLES", 500)?,
        })
    }
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let sizes = Sizes::from_env()?;
    let server = Server::start(Durability::Full);
    let result = run(&server, sizes).await;
    server.stop();
    let rows = result?;
    report::print(&rows);
    report::write(&rows)
}

async fn run(server: &Server, sizes: Sizes) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let pool = fresh_database(server, "queue", sizes.workers).await?;
    rows.extend(drain::compare(server, &pool, sizes).await?);
    rows.extend(latency::measure(server, "queue", &pool, sizes).await?);
    pool.close().await;
    rows.extend(depth::compare(server, sizes).await?);
    Ok(rows)
}

/// A migrated database, and a pool with a connection for each worker.
async fn fresh_database(server: &Server, name: &'static str, workers: usize) -> Result<PgPool> {
    let admin = db::connect(&server.config("postgres"))?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("create database {name}")))
        .execute(&admin)
        .await?;
    admin.close().await;
    let pool = db::connect(&DatabaseConfig {
        max_connections: u32::try_from(workers)?,
        ..server.config(name)
    })?;
    db::migrate::migrate(&pool).await?;
    Ok(pool)
}
