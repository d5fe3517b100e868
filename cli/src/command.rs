//! One file per command.

pub mod api;
pub mod config;
pub mod export;
pub mod jobs;
pub mod keys;
pub mod migrate;
pub mod models;
pub mod psql;
pub mod serve;
pub mod status;
pub mod transcribe;
pub mod worker;

use std::process::ExitCode;

use crate::arguments::{Arguments, Command};
use crate::config::Config;

/// Runs the command of this command line.
pub async fn run(arguments: Arguments, config: Config) -> anyhow::Result<ExitCode> {
    let quiet = arguments.quiet;
    let done = match arguments.command {
        Command::Serve(_) => serve::run(config).await,
        Command::Api(_) => api::run(config).await,
        Command::Worker(options) => worker::run(options, config).await,
        Command::Migrate(options) => migrate::run(options, config).await,
        Command::Psql(options) => return psql::run(options, config).await,
        Command::Config(options) => config::run(&options, &config),
        Command::Transcribe(options) => return transcribe::run(*options, config, quiet).await,
        Command::Jobs(options) => return jobs::run(options, config, quiet).await,
        Command::Export(options) => export::run(options, config).await,
        Command::Models(options) => models::run(options, config, quiet).await,
        Command::Keys(options) => keys::run(options, config).await,
        Command::Status(options) => return status::run(options, config).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
