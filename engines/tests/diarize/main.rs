//! Diarization against the reference pipeline on the same weights, and against the exact references of the dialogues.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod clustering;
mod error_rate;
mod fixture;
mod multilabel;
mod requests;
mod scoring;
mod stages;
