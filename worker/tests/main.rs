//! A worker against a real PostgreSQL: what it promises about tasks, leases, cancellation, shutdown and maintenance.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a failed unwrap is a failed test"
)]

mod failures;
mod harness;
mod leases;
mod maintenance;
mod models;
mod pipeline;
mod shutdown;
