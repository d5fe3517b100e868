//! The floor: what pgbench reaches on a bare table with one index, claiming a batch in one transaction and deleting it
//! in the next, without leases, dependants, payloads, history or events.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use dalston_schema::db::PgPool;
use dalston_test_postgres::{Server, role};

use crate::Sizes;
use crate::cpu::{Cost, Stopwatch};

/// Claims and deletes once over all tasks.
pub(crate) async fn drain(server: &Server, pool: &PgPool, sizes: Sizes) -> Result<Cost> {
    let rows = i64::try_from(sizes.tasks)?;
    sqlx::raw_sql(
        "drop table if exists floor_tasks;
         create table floor_tasks (
           id bigint generated always as identity primary key, state smallint not null default 1,
           priority smallint not null default 100, worker int, attempt int not null default 0);
         create index floor_ready on floor_tasks (priority, id) where state = 1;",
    )
    .execute(pool)
    .await?;
    sqlx::query("insert into floor_tasks (state) select 1 from generate_series(1, $1)")
        .bind(rows)
        .execute(pool)
        .await?;
    for statement in ["vacuum analyze floor_tasks", "checkpoint"] {
        sqlx::raw_sql(statement).execute(pool).await?;
    }

    let script = std::env::temp_dir().join(format!("dalston-floor-{}.sql", std::process::id()));
    std::fs::write(
        &script,
        format!(
            "with next as materialized (
               select id from floor_tasks where state = 1 order by priority, id limit {batch} for update skip locked
             ), claimed as (
               update floor_tasks t set state = 2, worker = :client_id, attempt = attempt + 1
                 from next where t.id = next.id returning t.id
             )
             select coalesce(array_agg(id), '{{}}') as ids from claimed \\gset\n\
             delete from floor_tasks where id = any(:ids::bigint[]);\n",
            batch = sizes.batch
        ),
    )?;
    let program = server.binaries().join("pgbench");
    let stopwatch = Stopwatch::start(server)?;
    let output = Command::new(if program.exists() {
        program
    } else {
        "pgbench".into()
    })
    .args(["--no-vacuum", "--protocol=prepared", "-h"])
    .arg(server.socket_directory())
    .args(["-U", role(), "-f"])
    .arg(&script)
    .args(["-c", &sizes.workers.to_string(), "-j", "2", "-t"])
    .arg((sizes.tasks / sizes.batch / sizes.workers).to_string())
    .arg(pool.connect_options().get_database().unwrap_or_default())
    .output()
    .context("pgbench, which comes with PostgreSQL, is needed for the floor")?;
    let cost = stopwatch.stop(sizes.tasks)?;
    std::fs::remove_file(&script)?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "pgbench: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let transactions: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .with_context(|| format!("no rate in pgbench's output: {text}"))?;
    let left: i64 = sqlx::query_scalar("select count(*) from floor_tasks")
        .fetch_one(pool)
        .await?;
    let batches = (sizes.tasks / sizes.batch / sizes.workers * sizes.workers) as f64;
    Ok(Cost {
        // Without the time that pgbench takes to start.
        rate: (rows - left) as f64 / (batches / transactions),
        ..cost
    })
}
