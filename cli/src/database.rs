//! Which database a command works on: `DATABASE_URL`, the embedded server that `dalston serve` runs on this data folder, or
//! an embedded server started for the call.

use std::path::{Path, PathBuf};

use anyhow::Context;
use dalston_schema::db::{self, DatabaseConfig, PgPool};
use secrecy::SecretString;

use crate::Usage;
use crate::config::Config;
use crate::postgres::{self, Options, Postgres};

/// A database to work on. An embedded server started for it stops when this is dropped.
#[derive(Debug)]
pub struct Database {
    url: SecretString,
    server: Option<Postgres>,
}

impl Database {
    /// The database in use, starting an embedded server when no other is there.
    pub async fn open(config: &Config) -> anyhow::Result<Database> {
        if let Some(database) = Database::in_use(config).await? {
            return Ok(database);
        }
        Database::start(config).await
    }

    /// `DATABASE_URL` or the embedded server of this data folder, if one runs.
    pub async fn in_use(config: &Config) -> anyhow::Result<Option<Database>> {
        if let Some(url) = &config.database_url {
            return Ok(Some(Database {
                url: url.clone(),
                server: None,
            }));
        }
        let directory = directory(&config.data_dir);
        let running = tokio::task::spawn_blocking(move || postgres::running(&directory)).await?;
        Ok(running.map(|url| Database {
            url: url.into(),
            server: None,
        }))
    }

    /// As [`in_use`](Database::in_use), for commands that make no sense without somebody else's database.
    pub async fn required(config: &Config, command: &str) -> anyhow::Result<Database> {
        let usage = || {
            Usage(format!(
                "`dalston {command}` needs a database: set DATABASE_URL, or run `dalston serve` on this data folder"
            ))
        };
        Ok(Database::in_use(config).await?.ok_or_else(usage)?)
    }

    /// Starts the embedded server of this data folder.
    pub async fn start(config: &Config) -> anyhow::Result<Database> {
        let options = Options {
            search: search(config),
            ..Options::new(directory(&config.data_dir))
        };
        let server = tokio::task::spawn_blocking(move || Postgres::start(options))
            .await?
            .context("starting the embedded database")?;
        Ok(Database {
            url: server.url().to_owned().into(),
            server: Some(server),
        })
    }

    /// The connection URL.
    pub fn url(&self) -> &SecretString {
        &self.url
    }

    /// What the other crates want to know to connect, shown to the database as `application`.
    pub fn connection(&self, config: &Config, application: &str) -> DatabaseConfig {
        DatabaseConfig {
            url: self.url.clone(),
            max_connections: config.database_connections,
            transaction_pooler: config.transaction_pooler,
            application_name: application.to_owned(),
        }
    }

    /// A small pool for the command's own statements.
    pub fn pool(&self, config: &Config) -> anyhow::Result<PgPool> {
        let connection = DatabaseConfig {
            max_connections: 2,
            ..self.connection(config, "dalston")
        };
        db::connect(&connection).context("DATABASE_URL")
    }

    /// Where the server's client programs lie, when it is ours.
    pub fn bin(&self) -> Option<&Path> {
        self.server.as_ref().map(Postgres::bin)
    }

    /// Stops a server of ours, off the runtime's threads; leaves others alone.
    pub async fn close(self) -> anyhow::Result<()> {
        if let Some(server) = self.server {
            tokio::task::spawn_blocking(move || server.stop()).await?;
        }
        Ok(())
    }
}

/// The embedded server's folder.
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres")
}

/// Where `make setup` puts server binaries that no system package brought.
pub fn search(config: &Config) -> Vec<PathBuf> {
    vec![
        config.runtime_dir.join("postgresql/bin"),
        "/opt/dalston/postgresql/bin".into(),
    ]
}
