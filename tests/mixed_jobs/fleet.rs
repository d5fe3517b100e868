//! Workers to which things happen.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::product::{Process, Product, eventually};

/// Workers that take tasks at any time.
const AT_WORK: usize = 2;

/// The workers of a product.
pub struct Fleet {
    at_work: Vec<Worker>,
    frozen: Option<Worker>,
    stopping: Vec<Worker>,
    n_started: usize,
    n_killed: usize,
    n_frozen: usize,
}

struct Worker {
    identity: String,
    process: Process,
}

impl Fleet {
    /// Starts the first workers.
    pub fn start(product: &mut Product) -> Self {
        let mut fleet = Self {
            at_work: Vec::new(),
            frozen: None,
            stopping: Vec::new(),
            n_started: 0,
            n_killed: 0,
            n_frozen: 0,
        };
        fleet.fill(product);
        fleet
    }

    fn fill(&mut self, product: &mut Product) {
        while self.at_work.len() < AT_WORK {
            self.n_started += 1;
            let identity = format!("worker of the fleet {}", self.n_started);
            self.at_work.push(Worker {
                process: product.spawn_worker(&["--identity", &identity], &[]),
                identity,
            });
        }
    }

    /// Lets one thing happen to one worker, and replaces it. A task on which workers die three times is given up, as it
    /// should be, so none dies on a task on which two have.
    pub async fn suffer(&mut self, product: &mut Product, random: &mut StdRng) {
        let victim = self.at_work.remove(random.random_range(0..AT_WORK));
        // Frozen first: it claims nothing while its tasks are looked at.
        victim.process.signal(libc::SIGSTOP);
        let state = state(product, &victim).await;
        match (state, random.random_range(0..4)) {
            // Little can go wrong with it yet.
            (State::Starting, 1..) => {
                victim.process.signal(libc::SIGCONT);
                self.at_work.push(victim);
            }
            (State::Starting, _) | (State::Harmless, 0 | 1) => {
                self.n_killed += 1;
                victim.process.kill();
            }
            (State::Harmless, 2) => {
                self.n_frozen += 1;
                // Of two that are frozen the first thaws; by now its leases may be over or not.
                if let Some(thawed) = self.frozen.replace(victim) {
                    thawed.process.signal(libc::SIGCONT);
                    self.at_work.push(thawed);
                }
            }
            (State::Harmless | State::LastHope, _) => {
                victim.process.signal(libc::SIGCONT);
                victim.process.signal(libc::SIGTERM);
                self.stopping.push(victim);
            }
        }
        self.fill(product);
    }

    /// What happened so far.
    pub fn story(&self) -> String {
        format!(
            "{} workers: {} killed, {} frozen, {} stopped",
            self.n_started,
            self.n_killed,
            self.n_frozen,
            self.stopping.len()
        )
    }

    /// Stops all that still run, and insists that they stop well.
    pub async fn stop(mut self, product: &Product) {
        if let Some(frozen) = self.frozen.take() {
            frozen.process.signal(libc::SIGCONT);
            self.at_work.push(frozen);
        }
        for worker in &self.at_work {
            // A process that is only starting would die of the signal.
            eventually("the last workers to register", async || {
                (state(product, worker).await != State::Starting).then_some(())
            })
            .await;
            worker.process.signal(libc::SIGTERM);
        }
        for mut worker in self.at_work.into_iter().chain(self.stopping) {
            let status = worker.process.end().await;
            assert!(status.success(), "{}: {status}", worker.identity);
        }
    }
}

/// What its death would cost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is not known yet and has no tasks.
    Starting,
    /// Its tasks may be tried again.
    Harmless,
    /// It runs a task on which two workers have died.
    LastHope,
}

async fn state(product: &Product, worker: &Worker) -> State {
    let found: Option<bool> = sqlx::query_scalar(
        "select coalesce(max(greatest(t.crashes, t.retries)), 0) >= 2
           from workers w
           left join running_tasks r on r.worker_id = w.id
           left join tasks t on t.id = any(r.tasks)
          where w.identity = $1 group by w.id",
    )
    .bind(&worker.identity)
    .fetch_optional(&product.database)
    .await
    .unwrap();
    match found {
        None => State::Starting,
        Some(false) => State::Harmless,
        Some(true) => State::LastHope,
    }
}
