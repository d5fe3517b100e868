//! `dalston api`: the HTTP surface alone, on a database that others share.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;
use dalston_api::config::{ApiConfig, HubAccess, Limits, SecurityMode, UrlIngest, WhenMissing};
use dalston_api::ingest::address_guard::Reach;
use dalston_schema::db::migrate;
use dalston_schema::job::Chunking;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config};
use crate::database::Database;
use crate::private_file;
use crate::{admin_key, print, stop, storage};

/// Where to listen, for the commands that do.
#[derive(Debug, Args)]
pub struct Listen {
    /// Address to listen on; 0.0.0.0 for every interface [env: DALSTON_HOST; default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Port to listen on [env: DALSTON_PORT; default: 8000]
    #[arg(long)]
    port: Option<u16>,
}

impl Listen {
    /// The settings these options set.
    pub fn settings(&self) -> [(&'static str, Option<String>); 2] {
        [
            ("DALSTON_HOST", self.host.clone()),
            ("DALSTON_PORT", self.port.map(|port| port.to_string())),
        ]
    }
}

/// Options of `dalston api`.
#[derive(Debug, Args)]
pub struct Api {
    /// Where to listen.
    #[command(flatten)]
    pub listen: Listen,
}

/// Serves until asked to stop. Brings the database's schema up to date first.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let database = Database::required(&config, "api").await?;
    let key = prepare(&config, &database).await?;
    let api = api_config(&config, &database)?;
    let shutdown = CancellationToken::new();
    stop::on_signals(&shutdown)?;
    if let Some(key) = key {
        print::announce(format!("Admin key (shown once): {}", key.expose_secret()));
    }
    dalston_api::run(api, shutdown)
        .await
        .context("serving the API")
}

/// Migrates the database and makes its first key; answers a key that must be shown.
pub async fn prepare(config: &Config, database: &Database) -> anyhow::Result<Option<SecretString>> {
    let pool = database.pool(config)?;
    let migrated = migrate::migrate(&pool)
        .await
        .context("bringing the database's schema up to date");
    let report = database.explain(migrated).await?;
    tracing::info!(
        server = report.server_version,
        applied = report.applied.len(),
        "The database is ready"
    );
    let key = if config.security == config::SecurityMode::None {
        None
    } else {
        admin_key::ensure(&pool, config.api_key.as_ref(), &config.data_dir).await?
    };
    pool.close().await;
    Ok(key)
}

/// What the API is told.
pub fn api_config(config: &Config, database: &Database) -> anyhow::Result<ApiConfig> {
    let bind = SocketAddr::new(config.host, config.port);
    let concurrent_jobs = i32::try_from(config.concurrent_jobs).ok();
    let defaults = ApiConfig::new(
        bind,
        database.connection(config, "dalston-api"),
        storage::config(config),
        signing_secret(config)?,
    );
    Ok(ApiConfig {
        security_mode: match config.security {
            config::SecurityMode::ApiKey => SecurityMode::ApiKey,
            config::SecurityMode::None => SecurityMode::None,
        },
        limits: Limits {
            requests_per_minute: config.requests_per_minute,
            concurrent_jobs,
            upload_bytes: config.upload_bytes,
            ..Limits::default()
        },
        url_ingest: UrlIngest {
            max_bytes: config.audio_url_bytes,
            timeout: config.audio_url_timeout,
            reach: if config.allow_private_urls {
                Reach::PublicAndLoopback
            } else {
                Reach::Public
            },
        },
        default_retention_days: config.retention_days,
        public_url: config.public_url.clone(),
        metrics: config.metrics,
        capability_wait: config.engine_wait.unwrap_or(defaults.capability_wait),
        when_missing: if config.wait_for_engines {
            WhenMissing::Wait
        } else {
            WhenMissing::FailFast
        },
        // Where models must not use the network no pull is asked for: it would only fail.
        pull_needed: config.pull_needed && !config.offline,
        unserved_wait: config.engine_wait.unwrap_or(defaults.unserved_wait),
        chunking: Chunking {
            target_seconds: config.chunk_target,
            minimum_seconds: config.chunk_minimum,
        },
        hub: HubAccess {
            endpoint: config.hf_endpoint.clone(),
            token: config.hf_token.clone(),
            offline: config.offline,
        },
        sync_timeout: config.sync_timeout,
        ..defaults
    })
}

/// The configured secret, or the one kept in the data folder, made when there is none.
fn signing_secret(config: &Config) -> anyhow::Result<SecretString> {
    if let Some(secret) = &config.signing_secret {
        return Ok(secret.clone());
    }
    let path = config.data_dir.join("signing.secret");
    if let Some(secret) = private_file::read(&path)? {
        return Ok(secret);
    }
    let secret = admin_key::generate();
    private_file::write(&path, secret.expose_secret())?;
    Ok(secret)
}
