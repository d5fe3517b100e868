//! The verbs and reads of `sql/`, through `dalston_schema::db`, on a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "tests")]

mod fairness;
mod jobs;
mod keys;
mod migrations;
mod models;
mod operators;
mod plan;
mod pooler;
mod retention;
mod stress;
mod tasks;
mod wakeups;
mod workers;
