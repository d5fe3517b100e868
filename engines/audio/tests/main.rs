//! The crate from outside: files in, samples and refusals out.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod damage;
mod formats;
mod prepare;
mod signal;
