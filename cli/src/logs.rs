//! Where log lines go and how they look: standard error, for people or as JSON.

mod writer;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::{Config, LogFormat};
use writer::LogWriter;

/// How much a command logs when nobody set a level: long-running commands tell what happens, clients only what went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    /// The configured level.
    Server,
    /// Warnings, unless a level was chosen.
    Client,
    /// Everything down to debug (`--verbose`).
    Verbose,
}

/// Libraries whose informational lines are about themselves, not about transcription.
const QUIET: &str = "poem=warn,sqlx=warn,hyper=warn,ort=warn,symphonia=warn,h2=warn,rustls=warn";

/// Starts logging for this process.
///
/// # Errors
/// When `DALSTON_LOG_LEVEL` is not a level or list of directives; the message names the variable.
pub fn start(config: &Config, talk: Talk) -> anyhow::Result<()> {
    let filter = filter(&level(config, talk))
        .map_err(|error| anyhow::anyhow!("DALSTON_LOG_LEVEL is {:?}: {error}", config.log_level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(LogWriter::stderr(config.log_format))
        // It would say so with a macro that panics when standard error cannot be written.
        .log_internal_errors(false);
    match config.log_format {
        LogFormat::Console => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colours).with_target(false).init();
        }
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .init(),
    }
    Ok(())
}

fn level(config: &Config, talk: Talk) -> String {
    let chosen = config.values.origin("DALSTON_LOG_LEVEL") != crate::config::Origin::Default;
    match talk {
        Talk::Verbose => "debug".to_owned(),
        Talk::Client if !chosen => "warn".to_owned(),
        Talk::Client | Talk::Server => config.log_level.clone(),
    }
}

/// A plain level keeps libraries quiet; directives are taken as they are.
fn filter(level: &str) -> Result<EnvFilter, ParseError> {
    let plain = level.parse::<tracing::Level>().is_ok();
    // A word that is no level would be taken for the name of a module, and silence everything.
    if !plain && !level.contains(['=', ',']) {
        return EnvFilter::builder().parse(format!("dalston={level}"));
    }
    EnvFilter::builder().parse(if plain {
        format!("{level},{QUIET}")
    } else {
        level.to_owned()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn config(environment: &[(&str, &str)]) -> Config {
        Config::load(&[], |name| {
            environment
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
        .unwrap()
    }

    #[test]
    fn levels_and_directives_are_accepted_and_nonsense_is_not() {
        for good in [
            "info",
            "TRACE",
            "info,dalston_worker=debug",
            "dalston_api=trace",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
        assert!(filter("loud").is_err());
        assert!(filter("info,dalston=loud").is_err());
    }

    #[test]
    fn clients_are_quiet_until_asked() {
        assert_eq!(level(&config(&[]), Talk::Client), "warn");
        assert_eq!(
            level(&config(&[("DALSTON_LOG_LEVEL", "info")]), Talk::Client),
            "info"
        );
        assert_eq!(level(&config(&[]), Talk::Server), "info");
        assert_eq!(level(&config(&[]), Talk::Verbose), "debug");
    }
}
