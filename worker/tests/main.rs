//! A worker against a real PostgreSQL: what it promises about tasks, leases, cancellation, shutdown and maintenance.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a failed unwrap is a failed test"
)]

mod failures;
mod harness;
#[path = "../src/model_store/tests/hub_server.rs"]
#[allow(dead_code, reason = "shared with the model store's own tests")]
mod hub_server;
mod leases;
mod maintenance;
mod models;
mod pipeline;
mod registry;
mod shutdown;
