//! What every task of this worker shares: its configuration, the database, the object store, the leases, the models.

use dalston_engines::Runtime;
use dalston_schema::db::PgPool;
use dalston_schema::{Storage, WorkerId};
use tokio::sync::watch;

use crate::config::WorkerConfig;
use crate::languages::Languages;
use crate::lease::Leases;
use crate::measures::Measures;
use crate::models::Models;
use crate::registration::Offer;
use crate::scratch::Scratch;
use crate::speech::SpeechFinder;

/// The surroundings of a task.
#[derive(Debug)]
pub struct Environment {
    /// This worker's settings.
    pub config: WorkerConfig,
    /// This run of the worker.
    pub worker: WorkerId,
    /// The database.
    pub pool: PgPool,
    /// The object store.
    pub storage: Storage,
    /// ONNX Runtime on the device that really runs.
    pub runtime: Runtime,
    /// The leases of running tasks.
    pub leases: Leases,
    /// Room for files of running tasks.
    pub scratch: Scratch,
    /// What this worker offers now.
    pub offer: watch::Receiver<Offer>,
    /// What is measured.
    pub measures: Measures,
    /// The models tasks take.
    pub models: Models,
    /// Languages of files in work.
    pub languages: Languages,
    /// Voice activity detection.
    pub speech: SpeechFinder,
}
