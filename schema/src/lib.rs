//! The vocabulary of Dalston and its only door to PostgreSQL and the object store.
//!
//! Glossary: a **job** is what a user asked for. It expands into **tasks**, each one **stage** of the pipeline
//! (`prepare`, `transcribe`, `merge` …), with edges between them. A **worker** claims the tasks for which it has the
//! **capability** (stage, engine and model), holds each under a **lease**, and completes or fails it. The result is a
//! **transcript**: **segments** made of **words**. Audio lives in the object store under an **artifact** key, everything
//! else in PostgreSQL.

pub mod artifact;
pub mod capability;
pub mod catalogue;
pub mod db;
pub mod ids;
pub mod job;
pub mod measure;
pub mod storage;
pub mod task;
pub mod transcript;

pub use artifact::ArtifactKey;
pub use capability::Capability;
pub use ids::{ApiKeyId, JobId, TaskId, TenantId, WorkerId};
pub use job::{Job, JobParameters, JobStatus};
pub use storage::Storage;
pub use task::{Stage, TaskStatus};
pub use transcript::Transcript;
