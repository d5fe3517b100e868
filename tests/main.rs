//! The product from outside: the real `dalston` binary, a real PostgreSQL, real clients.
//!
//! [`product`] starts it, [`recordings`] gives it speech, [`sameness`] compares transcripts; the other modules are the
//! tests. Nothing here sleeps for a fixed time: [`product::eventually`] asks again until a deadline.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where and stop"
)]

mod batch_job;
mod boundaries;
mod clients;
mod faults;
#[path = "../worker/src/model_store/tests/hub_server.rs"]
#[allow(dead_code, reason = "shared with the model store's own tests")]
mod hub_server;
mod mixed_jobs;
mod pipeline;
mod product;
mod pulls;
mod recordings;
mod s3;
mod sameness;
mod speakers;
