//! Claims tasks, runs their stages on models and completes them.

pub mod assemble;
pub mod config;
pub mod coverage;
pub mod failure;
pub mod load_engine;
pub mod model_pool;
pub mod model_store;
pub mod scratch;
pub mod stop;

pub use config::WorkerConfig;
