//! Diarization against the reference pipeline on the same weights, and against the exact references of the dialogues.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod error_rate;
mod fixture;
mod scoring;
mod stages;
