//! Claim cost against the depth of the queue: server time and buffers of one claim, with a thousand tasks queued in a
//! new database and with a million queued behind ten million finished.

use std::time::Instant;

use anyhow::{Context, Result};
use dalston_schema::db::{PgPool, jobs};
use dalston_test_postgres::Server;
use serde_json::Value;

use crate::report::Row;
use crate::{Sizes, fresh_database, plan};

const SHALLOW: u64 = 1_000;
/// Claims measured; each is rolled back.
const CLAIMS: usize = 101;
/// Rows in one insert, so that no transaction grows without bound.
const ROWS: u64 = 500_000;

struct Cost {
    milliseconds: f64,
    buffers: f64,
}

pub(crate) async fn compare(server: &Server, sizes: Sizes) -> Result<Vec<Row>> {
    let shallow = fresh_database(server, "shallow", sizes.workers).await?;
    fill(&shallow, 0, SHALLOW).await?;
    let deep = fresh_database(server, "deep", sizes.workers).await?;
    let begin = Instant::now();
    fill(&deep, sizes.finished, sizes.queued).await?;
    println!(
        "filled {} finished and {} queued tasks in {:.0} s",
        sizes.finished,
        sizes.queued,
        begin.elapsed().as_secs_f64()
    );
    let mut rows = Vec::new();
    for limit in [1, i32::try_from(sizes.batch)?] {
        // In turns, so that both see the same load of the machine; the first round warms the caches.
        claim_cost(&deep, limit).await?;
        claim_cost(&shallow, limit).await?;
        let ours = claim_cost(&deep, limit).await?;
        let reference = claim_cost(&shallow, limit).await?;
        let suffix = if limit == 1 {
            String::new()
        } else {
            format!("_batch_{limit}")
        };
        let target = if limit == 1 { "<= 1.5" } else { "" };
        rows.push(Row::new(
            format!("claim_1m_vs_1k{suffix}"),
            ours.milliseconds,
            reference.milliseconds,
            "ms",
            target,
        ));
        rows.push(Row::new(
            format!("claim_1m_vs_1k{suffix}_buffers"),
            ours.buffers,
            reference.buffers,
            "buffers",
            "",
        ));
    }
    shallow.close().await;
    deep.close().await;
    Ok(rows)
}

/// Puts finished and queued tasks of one job each kind into the tables, without going through the verbs.
async fn fill(pool: &PgPool, finished: u64, queued: u64) -> Result<()> {
    // One real job per state carries the rows, so that everything they point at exists.
    plan::worker(pool).await?;
    let carrier = plan::job(1);
    jobs::submit(pool, &carrier, None).await?;
    sqlx::query("update jobs set status = 'running', started_at = now()")
        .execute(pool)
        .await?;
    let states = [(3_i16, finished), (0, queued)];
    for (state, rows) in states {
        let mut first = 0;
        while first < rows {
            let last = (first + ROWS).min(rows);
            let mut tx = pool.begin().await?;
            // Foreign keys hold by construction; checking eleven million times takes minutes.
            sqlx::raw_sql(
                "set local session_replication_role = replica; set local synchronous_commit = off",
            )
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "with added as (
                   insert into tasks (id, job_id, tenant_id, fair_key, ready_at, started_at, completed_at, total_seconds,
                                      capability_id, unmet, state, priority, attempt, max_attempts, required, ends_job,
                                      starts_job, name)
                   select lpad(to_hex($2 * 100000000000 + n), 32, '0')::uuid, t.job_id, t.tenant_id, n, now(),
                          case $2 when 3 then now() end, case $2 when 3 then now() end, 60, t.capability_id, 0, $2, 100,
                          case $2 when 3 then 1 else 0 end, 3, true, false, false, $2 || '_' || lpad(n::text, 8, '0')
                     from (select * from tasks where job_id = $1 and name = 'transcribe') t
                    cross join generate_series($3, $4) as n
                   returning id, state, capability_id, priority, fair_key, attempt, name
                 ), queued as (
                   insert into ready_tasks (capability_id, priority, fair_key, job_id, starts_job, ready_at, attempt, tasks,
                                            names)
                   select capability_id, priority, fair_key, $1, false, now(), attempt, array[id], array[name]
                     from added where state = 0
                 )
                 insert into task_payloads (task_id, request) select id, '{}' from added where state = 0",
            )
            .bind(carrier.id)
            .bind(state)
            .bind(i64::try_from(first + 1)?)
            .bind(i64::try_from(last)?)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            first = last;
        }
    }
    for statement in [
        "vacuum analyze tasks",
        "vacuum analyze ready_tasks",
        "vacuum analyze task_payloads",
        "checkpoint",
    ] {
        sqlx::raw_sql(statement).execute(pool).await?;
    }
    Ok(())
}

/// Median server time of a claim that is rolled back, and the buffers it touched.
async fn claim_cost(pool: &PgPool, limit: i32) -> Result<Cost> {
    let (worker, wanted) = plan::worker(pool).await?;
    let ids: Vec<i32> = wanted.iter().map(|want| want.capability_id).collect();
    let loaded = vec![true; ids.len()];
    let mut connection = pool.acquire().await?;
    let mut times = Vec::with_capacity(CLAIMS);
    let mut buffers = Vec::with_capacity(CLAIMS);
    for _ in 0..CLAIMS {
        sqlx::raw_sql("begin").execute(&mut *connection).await?;
        let plan: Value = sqlx::query_scalar(
            "explain (analyze, buffers, format json) select * from claim_tasks($1, $2, $3, $4, 30)",
        )
        .bind(worker)
        .bind(&ids)
        .bind(&loaded)
        .bind(limit)
        .fetch_one(&mut *connection)
        .await?;
        sqlx::raw_sql("rollback").execute(&mut *connection).await?;
        let root = &plan[0]["Plan"];
        times.push(
            root["Actual Total Time"]
                .as_f64()
                .context("no time in the plan")?,
        );
        let touched = |key: &str| root[key].as_f64().unwrap_or_default();
        buffers.push(touched("Shared Hit Blocks") + touched("Shared Read Blocks"));
    }
    Ok(Cost {
        milliseconds: median(&mut times),
        buffers: median(&mut buffers),
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
