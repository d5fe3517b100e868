//! `dalston migrate`: brings the database up to this version's schema. Safe when several start at once.

use clap::Args;
use dalston_schema::db::migrate;
use serde_json::json;

use crate::config::Config;
use crate::database::Database;
use crate::print;

/// Options of `dalston migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Only say what is missing, and exit 1 when something is
    #[arg(long)]
    check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Applies what is missing, or says what it is.
pub async fn run(options: Migrate, config: Config) -> anyhow::Result<()> {
    let database = Database::open(&config).await?;
    let pool = database.pool(&config)?;
    let done = if options.check {
        check(&pool, options.json).await
    } else {
        apply(&pool, options.json).await
    };
    let done = database.explain(done).await;
    pool.close().await;
    database.close().await?;
    done
}

async fn check(pool: &dalston_schema::db::PgPool, as_json: bool) -> anyhow::Result<()> {
    let pending = migrate::pending(pool).await?;
    if as_json {
        print::json(&json!({ "pending": pending }));
    } else if pending.is_empty() {
        print::line("The schema is up to date.");
    }
    anyhow::ensure!(
        pending.is_empty(),
        "the database lacks: {}; run `dalston migrate`",
        pending.join(", ")
    );
    Ok(())
}

async fn apply(pool: &dalston_schema::db::PgPool, as_json: bool) -> anyhow::Result<()> {
    let report = migrate::migrate(pool).await?;
    if as_json {
        print::json(&json!({
            "applied": report.applied,
            "replaced_functions": report.replaced_functions,
            "installed_pgmq": report.installed_pgmq,
            "server_version": report.server_version,
        }));
        return Ok(());
    }
    for name in &report.applied {
        print::line(format!("applied {name}"));
    }
    print::line(format!(
        "The schema is up to date (PostgreSQL {}).",
        report.server_version
    ));
    Ok(())
}
