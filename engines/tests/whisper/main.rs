//! Whisper against goldens that transformers made from the same weights, and against itself.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::print_stdout,
    reason = "measurements are shown with --nocapture"
)]

mod fixture;
mod longform;
mod mel;
mod model_folders;
mod rewritten;
mod robustness;
mod utterances;
mod word_errors;
mod words;
