//! The `dalston` command as a library: what `main` runs, and the PostgreSQL launcher that tests and benchmarks share.

pub mod postgres;
