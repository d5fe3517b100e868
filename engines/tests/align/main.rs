//! Forced alignment against the reference's frames, against the times a synthesiser spoke at, and over long files.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod control;
mod fixture;
mod golden;
mod long_files;
mod wildcards;
