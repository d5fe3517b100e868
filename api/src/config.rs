//! What the API is told at its start. The command line fills it from the environment; the code below takes values.

use std::net::SocketAddr;
use std::time::Duration;

use dalston_schema::db::DatabaseConfig;
use dalston_schema::job::Chunking;
use dalston_schema::storage::StorageConfig;
use secrecy::SecretString;

use crate::ingest::address_guard::Reach;
pub use crate::native::hub::HubAccess;
pub use crate::plan::WhenMissing;

/// Configuration of one API process.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Address to listen on.
    pub bind: SocketAddr,
    /// The database.
    pub database: DatabaseConfig,
    /// The object store.
    pub storage: StorageConfig,
    /// Who may call.
    pub security_mode: SecurityMode,
    /// How often and how much a tenant may ask.
    pub limits: Limits,
    /// What `audio_url` may fetch.
    pub url_ingest: UrlIngest,
    /// Days to keep a job (audio and transcript) that does not say: 0 purges within two minutes, −1 keeps for ever, at
    /// most 3650.
    pub default_retention_days: i32,
    /// Secret that signs audio URLs served by this API. All replicas need the same one.
    pub signing_secret: SecretString,
    /// Base of URLs handed out, for example `https://speech.example.org`; `None` takes the request's `Host`.
    pub public_url: Option<String>,
    /// Serve `/metrics`.
    pub metrics: bool,
    /// How long a request waits for a first worker to announce a model before it is refused.
    pub capability_wait: Duration,
    /// What happens to a job that needs a model which no worker has.
    pub when_missing: WhenMissing,
    /// Pull models of the catalogue that waiting tasks need and no worker has, with [`WhenMissing::Wait`].
    pub pull_needed: bool,
    /// How long a task may wait for a worker that has its model, with [`WhenMissing::Wait`].
    pub unserved_wait: Duration,
    /// How long files are cut for several workers, when the request does not say.
    pub chunking: Chunking,
    /// Where to ask about hub repositories.
    pub hub: HubAccess,
    /// How long an OpenAI-compatible request waits for its transcript.
    pub sync_timeout: Duration,
    /// How long requests in flight may take to finish after a shutdown was asked for.
    pub shutdown_grace: Duration,
}

impl ApiConfig {
    /// The documented defaults, for a given database, store and signing secret.
    #[must_use]
    pub fn new(
        bind: SocketAddr,
        database: DatabaseConfig,
        storage: StorageConfig,
        signing_secret: SecretString,
    ) -> Self {
        Self {
            bind,
            database,
            storage,
            security_mode: SecurityMode::ApiKey,
            limits: Limits::default(),
            url_ingest: UrlIngest::default(),
            default_retention_days: 30,
            signing_secret,
            public_url: None,
            metrics: true,
            capability_wait: Duration::from_secs(10),
            when_missing: WhenMissing::FailFast,
            pull_needed: true,
            unserved_wait: Duration::from_secs(300),
            chunking: Chunking::default(),
            hub: HubAccess::default(),
            sync_timeout: Duration::from_secs(300),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityMode {
    /// Only holders of an API key.
    ApiKey,
    /// Anybody who reaches the port, as administrator. For one's own machine.
    None,
}

/// How often and how much a tenant may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Submits and deletions a tenant may make in any 60 seconds, counted in the database, for all API processes.
    pub requests_per_minute: u32,
    /// Unfinished jobs a tenant may have; `None` is no limit.
    pub concurrent_jobs: Option<i32>,
    /// Largest upload in bytes.
    pub upload_bytes: u64,
    /// Largest upload in the OpenAI dialect, in bytes.
    pub openai_upload_bytes: u64,
}

impl Default for Limits {
    /// 600 requests a minute, 10 unfinished jobs, 16 GiB, and 25 MiB in the OpenAI dialect.
    fn default() -> Self {
        Self {
            requests_per_minute: 600,
            concurrent_jobs: Some(10),
            upload_bytes: 16 << 30,
            openai_upload_bytes: 25 << 20,
        }
    }
}

/// What `audio_url` may fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UrlIngest {
    /// Largest file in bytes.
    pub max_bytes: u64,
    /// Longest one request may take, to the last byte of its answer; each redirect is a request of its own.
    pub timeout: Duration,
    /// Addresses that may be reached. Anything but [`Reach::Public`] is for tests.
    pub reach: Reach,
}

impl Default for UrlIngest {
    /// 3 GB, 300 seconds a request, public addresses only.
    fn default() -> Self {
        Self {
            max_bytes: 3_000_000_000,
            timeout: Duration::from_secs(300),
            reach: Reach::Public,
        }
    }
}
