//! `dalston serve`: the whole product in one process group. The database is a child (unless `DATABASE_URL` names another),
//! the API runs in this process, and one worker is a child of its own, so that a crash in a native library never takes the
//! API down.

mod worker_process;

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use super::api;
use crate::client::Client;
use crate::config::Config;
use crate::database::Database;
use crate::local_server::{address_file, own_address};
use crate::{print, private_file, stop};

use worker_process::WorkerProcess;

/// How often the API is asked whether it answers, while it starts.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// Options of `dalston serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dalston serve
  dalston serve --host 0.0.0.0 --port 9000
  DATABASE_URL=postgres://… DALSTON_S3_BUCKET=audio dalston serve

Ctrl-C or SIGTERM stops everything in good order: requests finish, running tasks get DALSTON_SHUTDOWN_GRACE_SECONDS and
are then given back, the database stops last.")]
pub struct Serve {
    /// Where to listen.
    #[command(flatten)]
    pub listen: api::Listen,
}

/// Runs everything until asked to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    stop::on_signals(&shutdown)?;
    check_port(&config)?;
    let database = match config.database_url {
        Some(_) => Database::open(&config).await?,
        None => Database::start(&config).await?,
    };
    let done = with_database(&config, &database, &shutdown).await;
    // Last, when nobody uses it any more.
    database.close().await?;
    tracing::info!("Stopped");
    done
}

async fn with_database(
    config: &Config,
    database: &Database,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let key = api::prepare(config, database).await?;
    let api = dalston_api::run(api::api_config(config, database)?, shutdown.child_token());
    let api = async {
        let ended = api.await.context("serving the API");
        // Without the API there is nothing to serve: the rest stops too, whether it was asked to or not.
        shutdown.cancel();
        ended
    };
    let worker = WorkerProcess::new(config, database)?;
    let address = own_address(config);
    let (api, worker, announced) = tokio::join!(
        api,
        worker.supervise(shutdown),
        announce(config, &address, key, shutdown)
    );
    std::fs::remove_file(address_file(&config.data_dir)).ok();
    api.and(worker).and(announced)
}

/// Waits for the API to answer, then tells people and client commands where it is.
async fn announce(
    config: &Config,
    address: &str,
    key: Option<SecretString>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let client = Client::new(address, None)?;
    while !client.is_healthy().await {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(PROBE_INTERVAL) => {}
        }
    }
    private_file::write(&address_file(&config.data_dir), address)?;
    let key = key.map_or_else(String::new, |key| {
        format!("\nAdmin key (shown once): {}", key.expose_secret())
    });
    // One write: whoever sees the first line has the second, too.
    print::announce(format!(
        "Dalston is ready on {address}   API documentation: {address}/docs{key}"
    ));
    Ok(())
}

/// Finds out before the database starts that the port is taken, so that the message comes at once and stands alone.
fn check_port(config: &Config) -> anyhow::Result<()> {
    std::net::TcpListener::bind((config.host, config.port))
        .map(drop)
        .with_context(|| format!("listening on {}:{}; choose another DALSTON_PORT or DALSTON_HOST, or stop what listens there", config.host, config.port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_taken_port_is_named_with_the_remedy() {
        let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port().to_string();
        let config = Config::load(&[("DALSTON_PORT", port.clone())], |_| None).unwrap();
        let error = format!("{:#}", check_port(&config).unwrap_err());
        assert!(
            error.contains(&port) && error.contains("DALSTON_PORT"),
            "{error}"
        );
    }
}
