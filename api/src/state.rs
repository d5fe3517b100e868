//! What every handler shares: the configuration, the doors to database and object store, and the process-wide helpers.

use std::ops::Deref;
use std::sync::Arc;

use dalston_schema::Storage;
use dalston_schema::db::{self, PgPool};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::auth::KeyCache;
use crate::config::ApiConfig;
use crate::health::LastCheck;
use crate::ingest::url::Fetcher;
use crate::wait::Watch;

/// Files probed at a time; probing is work for the processor.
const PROBES_AT_A_TIME: usize = 4;

/// Shared state; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<AppState>);

/// The state behind [`App`].
pub struct AppState {
    /// The configuration.
    pub config: ApiConfig,
    /// The database.
    pub pool: PgPool,
    /// The object store.
    pub storage: Storage,
    /// Recently seen API keys.
    pub keys: KeyCache,
    /// Fetches `audio_url`.
    pub fetcher: Fetcher,
    /// Permits for probing.
    pub probes: Arc<Semaphore>,
    /// Cancelled when the process stops: whoever waits or streams ends.
    pub stopping: CancellationToken,
    /// The last health check.
    pub last_check: LastCheck,
    /// Watches jobs for requests that wait.
    pub watch: Watch,
}

impl Deref for App {
    type Target = AppState;

    fn deref(&self) -> &AppState {
        &self.0
    }
}

impl App {
    /// Opens the object store and connects lazily to the database.
    ///
    /// # Errors
    /// When the configuration cannot work. No server is contacted.
    pub fn open(config: ApiConfig) -> anyhow::Result<Self> {
        let pool = db::connect(&config.database)?;
        let storage = Storage::open(&config.storage)?;
        Self::with(config, pool, storage)
    }

    /// The state around an existing pool and store, as tests use it.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn with(config: ApiConfig, pool: PgPool, storage: Storage) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(AppState {
            keys: KeyCache::default(),
            fetcher: Fetcher::new(config.url_ingest)?,
            stopping: CancellationToken::new(),
            last_check: LastCheck::default(),
            probes: Arc::new(Semaphore::new(PROBES_AT_A_TIME)),
            watch: Watch::new(pool.clone(), config.database.clone()),
            config,
            pool,
            storage,
        })))
    }
}
