//! Every verb against every other at random on one database, then the invariants. The seed is printed and can be set
//! with `DALSTON_TEST_SEED`; the interleaving is the server's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use dalston_schema::db::jobs::{self, Scope};
use dalston_schema::db::tasks::Outcome;
use dalston_schema::db::{DbError, PgPool, maintenance, tasks};
use dalston_schema::task::{ClaimedTask, NewTask, Progress};
use dalston_schema::{JobId, Stage, TaskId, TenantId};
use dalston_test_postgres::TestDatabase;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::plan::{Worker, answer, job, simple_plan, task, transcribe, wide_plan};

const ACTORS: usize = 10;
const ROUNDS: usize = 150;

struct World {
    pool: PgPool,
    tenants: Vec<TenantId>,
    jobs: Mutex<Vec<(TenantId, JobId)>>,
    /// How often a completion of each task was accepted since it was last opened by a retry.
    accepted: Mutex<HashMap<(TaskId, i64), u32>>,
}

impl World {
    fn some_job(&self, random: &mut StdRng) -> Option<(Scope, JobId)> {
        let jobs = self.jobs.lock().unwrap();
        if jobs.is_empty() {
            return None;
        }
        let (tenant_id, id) = jobs[random.random_range(0..jobs.len())];
        Some((
            Scope {
                tenant_id,
                key_id: None,
            },
            id,
        ))
    }

    async fn submit(&self, random: &mut StdRng) -> Result<(), DbError> {
        let mut new = job(match random.random_range(0..3) {
            0 => simple_plan(),
            1 => wide_plan(),
            _ => fanning_plan(),
        });
        new.tenant_id = self.tenants[random.random_range(0..self.tenants.len())];
        new.priority = random.random_range(90..110);
        jobs::submit(&self.pool, &new, None).await?;
        self.jobs.lock().unwrap().push((new.tenant_id, new.id));
        Ok(())
    }

    /// Claims a few tasks and ends each in some way, a few after having lost the lease.
    async fn work(&self, worker: &Worker, random: &mut StdRng) -> Result<(), DbError> {
        let claimed = tasks::claim(
            &self.pool,
            worker.id,
            &worker.wanted,
            random.random_range(1..5),
            30.0,
        )
        .await?;
        let beats: Vec<_> = claimed
            .iter()
            .map(|task| {
                let progress = Progress {
                    done_seconds: random.random_range(0.0..60.0),
                    total_seconds: 60.0,
                };
                (task.lease(), progress)
            })
            .collect();
        tasks::extend(&self.pool, worker.id, &beats, 30.0).await?;
        if random.random_range(0..4) == 0 {
            let handed: Vec<_> = claimed
                .iter()
                .filter(|task| task.stage != Stage::Prepare)
                .map(|task| (task.lease(), json!({})))
                .collect();
            let outcomes = tasks::complete_many(&self.pool, &handed).await?;
            for ((lease, _), outcome) in handed.iter().zip(outcomes) {
                self.note(lease.task_id, lease.token, outcome);
            }
        }
        for task in &claimed {
            self.end(task, random).await?;
        }
        Ok(())
    }

    async fn end(&self, task: &ClaimedTask, random: &mut StdRng) -> Result<(), DbError> {
        match random.random_range(0..12) {
            0 => tasks::fail(&self.pool, task.lease(), "at random", true).await?,
            1 => tasks::fail(&self.pool, task.lease(), "for good", false).await?,
            2 => tasks::give_back(&self.pool, task.lease()).await?,
            3 => return Ok(()), // its worker died
            _ => {
                let completion = completion_of(task);
                // Twice at once: the lease lets one through.
                let (a, b) = tokio::join!(
                    tasks::complete(&self.pool, task.lease(), &completion),
                    tasks::complete(&self.pool, task.lease(), &completion),
                );
                self.note(task.id, task.lease, a?);
                let second = b?;
                self.note(task.id, task.lease, second);
                second
            }
        };
        Ok(())
    }

    fn note(&self, task: TaskId, lease: i64, outcome: Outcome) {
        if outcome == Outcome::Done {
            *self
                .accepted
                .lock()
                .unwrap()
                .entry((task, lease))
                .or_default() += 1;
        }
    }

    async fn act(&self, worker: &Worker, random: &mut StdRng) -> Result<(), DbError> {
        match random.random_range(0..20) {
            0..=3 => self.submit(random).await?,
            4..=12 => self.work(worker, random).await?,
            13 => {
                if let Some((scope, id)) = self.some_job(random) {
                    jobs::cancel(&self.pool, scope, id).await?;
                }
            }
            14 => {
                if let Some((scope, id)) = self.some_job(random) {
                    jobs::retry(&self.pool, scope, id, None).await?;
                }
            }
            15 => {
                if let Some((scope, id)) = self.some_job(random) {
                    let list = tasks::list(&self.pool, id).await?;
                    if !list.is_empty() {
                        let some = &list[random.random_range(0..list.len())];
                        tasks::retry(&self.pool, scope, id, some.id, None).await?;
                    }
                }
            }
            16 => {
                sqlx::query(
                    "update running_tasks set lease_expires_at = dalston_now() - interval '1 s'
                      where lease = any(array(select lease from running_tasks limit 3 for update skip locked))",
                )
                .execute(&self.pool)
                .await?;
                maintenance::rescue_tasks(&self.pool, 5).await?;
            }
            17 => {
                sqlx::query(
                    "update tasks set run_at = dalston_now() - interval '1 s'
                      where id = any(array(select id from tasks where run_at is not null limit 5 for update skip locked))",
                )
                .execute(&self.pool)
                .await?;
                maintenance::promote_scheduled(&self.pool, 5).await?;
            }
            18 => {
                if let Some((_, id)) = self.some_job(random) {
                    sqlx::query("select set_priority($1, $2)")
                        .bind(id)
                        .bind(random.random_range(90_i16..110))
                        .execute(&self.pool)
                        .await?;
                }
                maintenance::advance_fair_clock(&self.pool).await?;
            }
            _ => {
                if let Some((scope, id)) = self.some_job(random)
                    && jobs::delete(&self.pool, scope, id).await? == jobs::Deleted::Done
                {
                    self.jobs.lock().unwrap().retain(|(_, job)| *job != id);
                }
            }
        }
        Ok(())
    }
}

/// prepare → merge, where prepare adds chunks before merge.
fn fanning_plan() -> Vec<NewTask> {
    let prepare = task(
        dalston_schema::Capability::without_model(Stage::Prepare),
        "prepare",
        &[],
    );
    let mut merge = task(
        dalston_schema::Capability::without_model(Stage::Merge),
        "merge",
        &[&prepare],
    );
    merge.request = json!({});
    let mut fanning = prepare;
    fanning.request = json!({"merge": merge.id});
    vec![fanning, merge]
}

fn completion_of(claimed: &ClaimedTask) -> tasks::Completion {
    let mut completion = answer(json!({"by": claimed.lease}));
    if let Some(merge) = claimed.request.get("merge") {
        completion.before = vec![serde_json::from_value(merge.clone()).unwrap()];
        completion.fan_out = (0..4)
            .map(|index| {
                let mut chunk = task(transcribe("nano"), &format!("transcribe_c{index:03}"), &[]);
                chunk.needs = vec![claimed.id];
                chunk
            })
            .collect();
    }
    completion
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_concurrent_verbs_leave_every_job_in_a_right_state() {
    let seed = std::env::var("DALSTON_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    eprintln!("DALSTON_TEST_SEED={seed}");

    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let mut tenants = vec![TenantId::DEFAULT];
    for most in [1, 3] {
        let id = TenantId::generate();
        sqlx::query("insert into tenants (id, name, max_running) values ($1, $1::text, $2)")
            .bind(id)
            .bind(most)
            .execute(&pool)
            .await
            .unwrap();
        tenants.push(id);
    }
    let world = Arc::new(World {
        pool: pool.clone(),
        tenants,
        jobs: Mutex::default(),
        accepted: Mutex::default(),
    });
    let actors: Vec<_> = (0..ACTORS)
        .map(|actor| {
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed.wrapping_add(actor as u64));
                let worker = Worker::able(&world.pool).await;
                for _ in 0..ROUNDS {
                    world.act(&worker, &mut random).await?;
                }
                Ok::<(), DbError>(())
            })
        })
        .collect();
    for actor in actors {
        // A deadlock would surface here: no verb may fail.
        actor.await.unwrap().unwrap();
    }
    check_invariants(&pool).await;
    settle(&world).await;
    check_invariants(&pool).await;
    check_end(&world).await;
}

/// Lets a quiet worker finish whatever is open.
async fn settle(world: &World) {
    let pool = &world.pool;
    let worker = Worker::able(pool).await;
    loop {
        crate::plan::expire_leases(pool).await;
        maintenance::rescue_tasks(pool, 1_000).await.unwrap();
        sqlx::query(
            "update tasks set run_at = dalston_now() - interval '1 s' where run_at is not null",
        )
        .execute(pool)
        .await
        .unwrap();
        maintenance::promote_scheduled(pool, 1_000).await.unwrap();
        let claimed = worker.claim(pool, 20).await;
        if claimed.is_empty() {
            return;
        }
        for task in claimed {
            tasks::complete(pool, task.lease(), &completion_of(&task))
                .await
                .unwrap();
        }
    }
}

/// What holds at every moment.
async fn check_invariants(pool: &PgPool) {
    for (what, query) in [
        (
            "a task's counter is the number of its open needs",
            "select count(*) from current_tasks t where t.state in (0, 1, 2, 7, 8) and t.unmet <> (
               select count(*) from task_edges e join tasks p on p.id = e.parent_id
                where e.child_id = t.id and p.state not in (3, 5))",
        ),
        (
            "a job's open ends are its unfinished last tasks",
            "select count(*) from jobs j where j.completed_at is null and j.open_ends <> (
               select count(*) from tasks t where t.job_id = j.id and t.ends_job and t.state = 0)
               and j.status <> 'cancelling'",
        ),
        (
            "a finished job has no open task",
            "select count(*) from tasks t join jobs j on j.id = t.job_id
              where j.completed_at is not null and t.state = 0",
        ),
        (
            "an unfinished job has an open task",
            "select count(*) from jobs j where j.completed_at is null
                and not exists (select from tasks t where t.job_id = j.id and t.state = 0)",
        ),
        (
            "no tenant is above its cap",
            "select count(*) from tenants n where n.max_running < (
               select count(*) from current_tasks t where t.tenant_id = n.id and t.state in (1, 2))",
        ),
        (
            "a ready task is open, has its own place in the queue and does not run",
            "select count(*) from ready_tasks q cross join unnest(q.tasks, q.names) as u (id, name)
               left join current_tasks t on t.id = u.id
              where t.state is distinct from 1::smallint or t.unmet <> 0
                 or (t.job_id, t.capability_id, t.priority, t.fair_key, t.attempt, t.name)
                    is distinct from (q.job_id, q.capability_id, q.priority, q.fair_key, q.attempt, u.name)",
        ),
        (
            "no task is ready twice, runs twice or both",
            "select count(*) - count(distinct id) from (select unnest(tasks) as id from ready_tasks
               union all select unnest(tasks) from running_tasks) open",

        ),
        (
            "a running task is open and belongs to an unfinished job",
            "select count(*) from running_tasks r cross join unnest(r.tasks) as u (id)
               left join tasks t on t.id = u.id left join jobs j on j.id = r.job_id
              where t.state is distinct from 0::smallint or t.job_id <> r.job_id
                 or j.status is null or j.status not in ('running', 'cancelling')",
        ),
        (
            "the slots of capped tenants are counted by the tasks that have one",
            "select count(*) from current_tasks where (slot = 2) <> (slot is not null and state in (1, 2))",
        ),
        (
            "every task has its payload and every payload its task",
            "select count(*) from tasks t full join task_payloads p on p.task_id = t.id where t.id is null or p.task_id is null",
        ),
        (
            "the log belongs to jobs that exist",
            "select count(*) from job_log l where not exists (select from jobs j where j.id = l.job_id)",
        ),
        (
            "the last logged state of a job is its state",
            "select count(*) from jobs j where j.status <> (
               select l.body->>'status' from job_log l where l.job_id = j.id and l.body ? 'status' order by l.id desc limit 1)",
        ),
        (
            "every logged change of state was sent",
            "select abs((select count(*) from pgmq.q_job_events where message->>'type' like 'job.%' and message ? 'status'
                            and exists (select from jobs j where j.id = (message->>'job_id')::uuid))
                      - (select count(*) from job_log where body ? 'status'))",
        ),
    ] {
        let wrong: i64 = sqlx::query_scalar(query).fetch_one(pool).await.unwrap();
        assert_eq!(wrong, 0, "{what}");
    }
}

/// What holds once nothing is left to do.
async fn check_end(world: &World) {
    let unfinished: Vec<String> = sqlx::query_scalar(
        "select format('%s %s: %s', j.status, j.id, string_agg(t.name || ' ' || task_state(t.state) || ' ' || t.unmet, ', '))
           from jobs j join current_tasks t on t.job_id = j.id where j.completed_at is null group by j.id",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert_eq!(unfinished, Vec::<String>::new(), "every job ends");
    let stuck: Vec<String> = sqlx::query_scalar("select reason from stuck_tasks")
        .fetch_all(&world.pool)
        .await
        .unwrap();
    assert_eq!(stuck, Vec::<String>::new());
    let twice: Vec<_> = world
        .accepted
        .lock()
        .unwrap()
        .iter()
        .filter(|(_, times)| **times > 1)
        .map(|(task, _)| *task)
        .collect();
    assert_eq!(twice, Vec::new(), "no completion is accepted twice");
    let jobs = world.jobs.lock().unwrap().len();
    assert!(jobs > 20, "the run did something: {jobs} jobs");
}
