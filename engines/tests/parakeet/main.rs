//! Parakeet against goldens that onnx-asr and NeMo made from the same weights, and against itself.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod boosting;
mod features;
mod fixture;
mod goldens;
mod longform;
mod options;
mod rewritten;
#[path = "../whisper/word_errors.rs"]
mod word_errors;
