//! Everything but LISTEN through `PgBouncer` in transaction mode, where consecutive statements of one client may reach
//! different server connections.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dalston_schema::db::{self, DatabaseConfig, events, maintenance, migrate};
use dalston_schema::{JobStatus, TenantId};
use dalston_test_postgres::{TestDatabase, role, server};

use crate::plan::{Worker, read, simple_plan, submit};

struct Pooler {
    child: Child,
    folder: PathBuf,
}

impl Pooler {
    /// `None`, with the reason printed, when there is no pgbouncer.
    fn start() -> Option<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
            .into_iter()
            .find(|path| std::path::Path::new(path).exists());
        let Some(program) = program else {
            eprintln!("skipped: pgbouncer is not installed");
            return None;
        };
        let folder = server().socket_directory().join("pooler");
        std::fs::create_dir_all(&folder).unwrap();
        let config = folder.join("pgbouncer.ini");
        std::fs::write(
            &config,
            format!(
                "[databases]\n* = host={socket}\n[pgbouncer]\nlisten_addr =\nunix_socket_dir = {folder}\nlisten_port = 6432\n\
                 auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 100\n\
                 ignore_startup_parameters = extra_float_digits\n",
                socket = server().socket_directory().display(),
                folder = folder.display(),
            )
            .replace("* = host", &format!("* = user={} host", role())),
        )
        .unwrap();
        let mut command = Command::new(program);
        // It refuses to run as root; the server's folder belongs to the account that may.
        use std::os::unix::fs::MetadataExt;
        use std::os::unix::process::CommandExt;
        let owner = std::fs::metadata(server().socket_directory()).unwrap();
        std::os::unix::fs::chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } == 0 {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let child = command
            .arg("-q")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pooler = Self { child, folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !pooler.folder.join(".s.PGSQL.6432").exists() {
            assert!(Instant::now() < deadline, "pgbouncer did not start");
            std::thread::yield_now();
        }
        Some(pooler)
    }

    fn config(&self, database: &str) -> DatabaseConfig {
        let socket = self.folder.to_str().unwrap().replace('/', "%2F");
        DatabaseConfig {
            url: format!("postgres://{}@{socket}:6432/{database}", role()).into(),
            max_connections: 12,
            transaction_pooler: true,
            application_name: "dalston-pooled".to_owned(),
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn migrations_and_verbs_work_through_a_transaction_pooler() {
    let database = TestDatabase::create_empty().await;
    let name: String = sqlx::query_scalar("select current_database()")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    let Some(pooler) = Pooler::start() else {
        return;
    };
    let pool = db::connect(&pooler.config(&name)).unwrap();
    // Several at once, each in its own process's place.
    let starts = (0..3).map(|_| migrate::migrate(&pool));
    let reports = futures_util::future::join_all(starts).await;
    let applied = reports
        .iter()
        .filter(|report| !report.as_ref().unwrap().applied.is_empty())
        .count();
    assert_eq!(applied, 1);

    let mut jobs = Vec::new();
    for _ in 0..20 {
        jobs.push(submit(&pool, simple_plan()).await);
    }
    let workers = futures_util::future::join_all((0..6).map(|_| Worker::able(&pool))).await;
    futures_util::future::join_all(workers.iter().map(|worker| worker.work(&pool))).await;
    // A worker that found nothing may have stopped before another's completion made more ready.
    workers[0].work(&pool).await;
    for &job in &jobs {
        assert_eq!(read(&pool, job).await.status, JobStatus::Completed);
    }
    // More than once, on whichever connections: a statement kept on one is not known on the next.
    for _ in 0..8 {
        db::now(&pool).await.unwrap();
        let known = events::newest_many(&pool, &jobs).await.unwrap();
        assert_eq!(known.len(), jobs.len());
        drop(maintenance::take_turn(&pool, "a test").await.unwrap());
    }
    maintenance::rescue_tasks(&pool, 10).await.unwrap();
    maintenance::advance_fair_clock(&pool).await.unwrap();
    let counted = dalston_schema::db::rate_limits::Counted::Tenant(TenantId::DEFAULT);
    assert!(
        dalston_schema::db::rate_limits::take(&pool, counted, 5)
            .await
            .unwrap()
            .allowed
    );
}
