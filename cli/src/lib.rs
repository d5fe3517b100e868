//! The `dalston` command as a library: what `main` runs, and the PostgreSQL launcher that tests and benchmarks share.

#![allow(
    clippy::doc_markdown,
    reason = "the comments of options are help texts, where backticks would show"
)]

pub mod config;
pub mod postgres;

mod admin_key;
mod arguments;
mod client;
mod command;
mod database;
mod local_server;
mod logs;
mod print;
mod private_file;
mod stop;
mod storage;

use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;
use config::{Config, ConfigError};

/// Exit code of a command line or configuration that cannot work, as the shell and clap use it.
const USAGE: u8 = 2;

/// A wrong use that only shows when the command runs; exits like one that clap finds.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Parses the command line, runs the command and answers the exit code: 0 done, 1 failed, 2 wrong use or configuration.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            print::note(format!("dalston: {}", print::chain(&error)));
            exit_code(&error)
        }
    }
}

/// Makes ring the TLS provider of this process: sqlx, reqwest and object_store are all built for it.
fn install_tls() {
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("A TLS provider was installed before");
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<Usage>() || error.is::<ConfigError>() {
        ExitCode::from(USAGE)
    } else {
        ExitCode::FAILURE
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load(&arguments.settings(), |name| std::env::var(name).ok())?;
    logs::start(&config, arguments.talk())?;
    install_tls();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    // Children get a signal when the thread that spawned them ends. This one lives as long as the process, and a future
    // given to `block_on` stays on it.
    runtime.block_on(command::run(arguments, config))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn wrong_use_and_failure_have_different_exit_codes() {
        let check = |error: anyhow::Error, code: u8| {
            assert_eq!(exit_code(&error), ExitCode::from(code), "{error}");
        };
        check(Usage("no file".to_owned()).into(), 2);
        check(
            Config::load(&[("DALSTON_PORT", "x".to_owned())], |_| None)
                .unwrap_err()
                .into(),
            2,
        );
        check(anyhow::anyhow!("the server said no"), 1);
    }
}
