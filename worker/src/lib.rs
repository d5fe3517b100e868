//! Claims tasks, runs their stages on models and completes them.
//!
//! [`run`] is a whole worker. Read in this order: [`claim`] takes tasks under leases that [`lease`] keeps, [`execute`] runs
//! one of them through its [`stage`] and records how it ended. [`maintenance`] are the loops that rescue, purge and sweep;
//! [`registration`] tells the database what this worker can do.

pub mod assemble;
mod backoff;
pub mod claim;
pub mod config;
pub mod coverage;
pub mod environment;
pub mod execute;
pub mod failure;
pub mod languages;
pub mod lease;
mod live_text;
pub mod load_engine;
pub mod maintenance;
pub mod measures;
pub mod model_pool;
pub mod model_registry;
pub mod model_store;
pub mod models;
mod outage;
pub mod registration;
pub mod scratch;
pub mod speech;
pub mod stage;
pub mod stop;
mod times;
mod worker;

pub use config::WorkerConfig;
pub use load_engine::LoadEngineConfig;
pub use worker::run;
