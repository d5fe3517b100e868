//! Our own dialect: one file per resource.

pub mod audio;
pub mod engines;
pub mod export;
pub mod hub;
pub mod job_object;
pub mod keys;
pub mod list;
pub mod model_object;
pub mod models;
pub mod request;
pub mod stats;
mod task_artifacts;
pub mod tasks;
pub mod tracks;
pub mod transcript_object;
pub mod transcriptions;
