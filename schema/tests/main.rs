//! The verbs and reads of `sql/`, through `dalston_schema::db`, on a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "tests")]

mod migrations;
mod plan;
mod tasks;
