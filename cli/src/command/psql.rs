//! `dalston psql`: psql on whichever database is in use.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::Args;
use secrecy::ExposeSecret;
use url::Url;

use crate::config::Config;
use crate::database::{self, Database};

/// Options of `dalston psql`.
#[derive(Debug, Args)]
pub struct Psql {
    /// Everything after `psql` goes to psql, for example: dalston psql -c 'select * from queue_depth'
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PSQL OPTIONS"
    )]
    options: Vec<String>,
}

/// Runs psql and answers its exit code. Starts the embedded database for the session when no server runs.
pub async fn run(options: Psql, config: Config) -> anyhow::Result<ExitCode> {
    let database = Database::open(&config).await?;
    let program = program(&config, &database);
    let (url, password) = without_password(database.url().expose_secret())?;
    let mut command = Command::new(&program);
    command.args(&options.options).arg("--dbname").arg(url);
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    // psql handles Ctrl-C itself (it cancels the statement); this process only waits.
    let _interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let status = tokio::task::spawn_blocking(move || command.status())
        .await?
        .with_context(|| format!("running {}. Install the PostgreSQL client (Debian and Ubuntu: apt install postgresql-client)", program.display()))?;
    database.close().await?;
    Ok(ExitCode::from(
        status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
    ))
}

/// psql beside the server when we know where that is, else the one on `PATH`.
fn program(config: &Config, database: &Database) -> PathBuf {
    let folders = database
        .bin()
        .map(PathBuf::from)
        .into_iter()
        .chain(database::search(config));
    folders
        .map(|folder| folder.join("psql"))
        .find(|psql| psql.exists())
        .unwrap_or_else(|| "psql".into())
}

/// Takes the password out of a URL: arguments are visible to every user of the machine, the environment is not.
fn without_password(url: &str) -> anyhow::Result<(String, Option<String>)> {
    let mut url = Url::parse(url).context("DATABASE_URL")?;
    let Some(password) = url.password() else {
        return Ok((url.into(), None));
    };
    let password =
        url::form_urlencoded::parse(format!("p={}", password.replace('+', "%2B")).as_bytes())
            .next()
            .map(|(_, value)| value.into_owned());
    // Fails only for URLs that cannot have one, and this one has.
    url.set_password(None).ok();
    Ok((url.into(), password))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_password_moves_out_of_the_arguments() {
        let check = |url: &str, bare: &str, password: Option<&str>| {
            assert_eq!(
                without_password(url).unwrap(),
                (bare.to_owned(), password.map(str::to_owned)),
                "{url}"
            );
        };
        check(
            "postgres://me:s%40f+e@host/db",
            "postgres://me@host/db",
            Some("s@f+e"),
        );
        check(
            "postgres://me@host:5433/db?sslmode=require",
            "postgres://me@host:5433/db?sslmode=require",
            None,
        );
    }
}
