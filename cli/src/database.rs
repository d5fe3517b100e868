//! Which database a command works on: `DATABASE_URL`, the embedded server that `dalston serve` runs on this data folder, or
//! an embedded server started for the call.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use dalston_schema::db::{self, DatabaseConfig, DbError, PgPool};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use url::Url;

use crate::Usage;
use crate::config::Config;
use crate::postgres::{self, Options, Postgres};

/// PostgreSQL's port.
const POSTGRES_PORT: u16 = 5432;
/// How long a server that did not answer is given to say why.
const REACH_LIMIT: Duration = Duration::from_secs(3);

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

    /// Puts the reason into an error that only knows that no connection came about in time: which server did not answer,
    /// and how it can be told.
    pub async fn explain<T>(&self, done: anyhow::Result<T>) -> anyhow::Result<T> {
        let Err(error) = done else { return done };
        let unreachable = error
            .downcast_ref::<DbError>()
            .is_some_and(DbError::is_transient);
        match unreachable.then(|| address(&self.url)).flatten() {
            Some((host, port)) => match try_to_reach(&host, port).await {
                Err(reason) => {
                    bail!("the database at {host}:{port} cannot be reached: {reason}")
                }
                Ok(()) => Err(error),
            },
            None => Err(error),
        }
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

/// Host and port of a URL; `None` for a socket in a folder.
fn address(url: &SecretString) -> Option<(String, u16)> {
    let url = Url::parse(url.expose_secret()).ok()?;
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let host = host.trim_matches(['[', ']']).to_owned();
    Some((host, url.port().unwrap_or(POSTGRES_PORT)))
}

async fn try_to_reach(host: &str, port: u16) -> Result<(), String> {
    let connecting = TcpStream::connect((host, port));
    match tokio::time::timeout(REACH_LIMIT, connecting).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer in {} s", REACH_LIMIT.as_secs())),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn a_database_that_cannot_be_reached_is_named_with_the_reason() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let database = Database {
            url: format!("postgres://user:hunter2@127.0.0.1:{port}/x").into(),
            server: None,
        };
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let failed: anyhow::Result<()> =
            Err(anyhow::Error::from(DbError::Sqlx(refused.into())).context("migrating"));
        let error = database.explain(failed).await.unwrap_err().to_string();
        assert!(
            error.contains(&format!("127.0.0.1:{port} cannot be reached: "))
                && error.contains("refused")
                && !error.contains("hunter2"),
            "{error}"
        );
        let other: anyhow::Result<()> = Err(anyhow::anyhow!("something else"));
        let error = database.explain(other).await.unwrap_err().to_string();
        assert_eq!(error, "something else");
    }

    #[test]
    fn a_socket_in_a_folder_has_no_address() {
        let of = |url: &str| address(&url.to_owned().into());
        assert_eq!(of("postgres:///x?host=/run/postgresql"), None);
        assert_eq!(of("postgres://u@[::1]/x"), Some(("::1".to_owned(), 5432)));
    }
}
