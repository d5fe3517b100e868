//! The HTTP surface on a real PostgreSQL and a real socket, with a worker that answers without listening.
#![allow(clippy::unwrap_used, reason = "tests")]

mod auth;
mod document;
mod events;
mod ingest;
mod jobs;
mod models;
mod openai;
mod server;
mod speakers;
mod submit;
mod surface;
mod worker;
