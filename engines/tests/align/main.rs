//! Forced alignment against the reference's frames, against the times a synthesiser spoke at, and over long files.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::print_stdout,
    reason = "measurements are shown with --nocapture"
)]

mod control;
mod fixture;
mod golden;
mod long_files;
mod wildcards;
