//! A throw-away PostgreSQL for tests: one server per test binary, started on first use and killed with the binary;
//! one database per test, copied from a template that is migrated once.
//!
//! The binaries are taken from `DALSTON_TEST_PG_BIN` (a folder with `initdb` and `postgres`) or, without it, from the
//! newest server installed. Nothing is forced to disk. Panics say what is missing; there is no set-up by hand.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a fixture has nobody to hand an error to"
)]

mod cluster;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use dalston_schema::db::{self, DatabaseConfig, PgPool};
use tokio::sync::OnceCell;

pub use cluster::{Durability, Server};

const TEMPLATE: &str = "dalston_template";

static SERVER: OnceLock<Server> = OnceLock::new();
static TEMPLATE_READY: OnceCell<()> = OnceCell::const_new();
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A database of a test's own.
#[derive(Debug)]
pub struct TestDatabase {
    /// A pool on it.
    pub pool: PgPool,
    /// How to reach it.
    pub config: DatabaseConfig,
}

impl TestDatabase {
    /// A migrated database.
    pub async fn create() -> Self {
        TEMPLATE_READY
            .get_or_init(|| async {
                let empty = Self::from_template(TEMPLATE, "template0").await;
                db::migrate::migrate(&empty.pool).await.unwrap();
                empty.pool.close().await;
            })
            .await;
        Self::from_template(&next_name(), TEMPLATE).await
    }

    /// A database without anything in it.
    pub async fn create_empty() -> Self {
        Self::from_template(&next_name(), "template0").await
    }

    async fn from_template(name: &str, template: &str) -> Self {
        let admin = db::connect(&server().config("postgres")).unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "create database {name} template {template}"
        )))
        .execute(&admin)
        .await
        .unwrap();
        admin.close().await;
        let config = server().config(name);
        Self {
            pool: db::connect(&config).unwrap(),
            config,
        }
    }

    /// The database's URL.
    #[must_use]
    pub fn url(&self) -> String {
        use secrecy::ExposeSecret;
        self.config.url.expose_secret().to_owned()
    }

    /// Sets the database's clock for connections opened from now on, and opens the pool's anew. `now` is anything
    /// PostgreSQL reads as a time; `''` returns to the real clock.
    pub async fn set_clock(&mut self, now: &str) {
        let name: String = sqlx::query_scalar("select current_database()")
            .fetch_one(&self.pool)
            .await
            .unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "alter database {name} set dalston.now = '{now}'"
        )))
        .execute(&self.pool)
        .await
        .unwrap();
        self.pool.close().await;
        self.pool = db::connect(&self.config).unwrap();
    }
}

/// The role that owns everything; the socket trusts it.
#[must_use]
pub fn role() -> &'static str {
    "dalston"
}

/// The server of this test binary, started if need be.
#[must_use]
pub fn server() -> &'static Server {
    SERVER.get_or_init(|| Server::start(Durability::None))
}

fn next_name() -> String {
    format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}
