//! The command line: options that every command takes, and the list of commands.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::command;
use crate::logs::Talk;

/// Shown under `dalston --help`.
const EXAMPLES: &str = "\
Examples:
  dalston serve                                  database, API and a worker, all in one
  dalston transcribe meeting.mp3                 text on the terminal; starts a server for the call if none runs
  dalston transcribe *.wav -f srt -o subtitles/  one .srt for each file
  dalston jobs list --status failed              what went wrong
  dalston models pull onnx-community/whisper-base
  dalston keys create --name laptop              a key for another client
  dalston psql -c 'select * from queue_depth'    the database itself
  dalston config                                 every setting, its value and who set it

Settings come from the environment (dalston config lists them); options here win over them.";

/// Turns speech into text on your own machines.
#[derive(Debug, Parser)]
#[command(name = "dalston", version, after_help = EXAMPLES, propagate_version = true, infer_subcommands = false)]
pub struct Arguments {
    /// Server to talk to [env: DALSTON_SERVER; default: the local one]
    #[arg(
        long,
        short = 's',
        global = true,
        value_name = "URL",
        help_heading = "Options for every command"
    )]
    server: Option<String>,
    /// API key [env: DALSTON_API_KEY; default for the local server: the one kept in the data folder]
    #[arg(
        long,
        short = 'k',
        global = true,
        value_name = "KEY",
        help_heading = "Options for every command"
    )]
    api_key: Option<String>,
    /// Folder of the embedded database, audio and models [env: DALSTON_DATA_DIR; default: .dalston]
    #[arg(
        long,
        global = true,
        value_name = "FOLDER",
        help_heading = "Options for every command"
    )]
    data_dir: Option<PathBuf>,
    /// No progress bars and no remarks; errors only
    #[arg(
        long,
        short = 'q',
        global = true,
        help_heading = "Options for every command"
    )]
    pub quiet: bool,
    /// Log what happens, down to debug (before the command: dalston -v transcribe …)
    #[arg(long, short = 'v')]
    verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything: database, API and a worker
    Serve(command::serve::Serve),
    /// Run only the API, on DATABASE_URL
    Api(command::api::Api),
    /// Run only a worker, on DATABASE_URL
    Worker(command::worker::Worker),
    /// Bring the database up to this version's schema
    Migrate(command::migrate::Migrate),
    /// Open psql on the database in use
    Psql(command::psql::Psql),
    /// Show the effective configuration and who set each value
    Config(command::config::Show),
    /// Transcribe files or URLs and print the result
    Transcribe(Box<command::transcribe::Transcribe>),
    /// List, show, await or cancel jobs
    #[command(subcommand)]
    Jobs(command::jobs::Jobs),
    /// Print a finished transcript as text, subtitles or JSON
    Export(command::export::Export),
    /// List, pull, import or remove models
    #[command(subcommand)]
    Models(command::models::Models),
    /// Create, list or revoke API keys
    #[command(subcommand)]
    Keys(command::keys::Keys),
    /// Show how the server is doing
    Status(command::status::Status),
}

impl Arguments {
    /// The settings that options on the command line set.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let data_dir = self
            .data_dir
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned());
        let mut settings = vec![
            ("DALSTON_SERVER", self.server.clone()),
            ("DALSTON_API_KEY", self.api_key.clone()),
            ("DALSTON_DATA_DIR", data_dir),
        ];
        match &self.command {
            Command::Serve(serve) => settings.extend(serve.listen.settings()),
            Command::Api(api) => settings.extend(api.listen.settings()),
            Command::Worker(worker) => settings.extend(worker.settings()),
            _ => {}
        }
        settings
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }

    /// How much this command logs.
    pub fn talk(&self) -> Talk {
        match self.command {
            _ if self.verbose => Talk::Verbose,
            Command::Serve(_) | Command::Api(_) | Command::Worker(_) => Talk::Server,
            _ => Talk::Client,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_become_settings() {
        let arguments = Arguments::try_parse_from([
            "dalston",
            "worker",
            "--concurrency",
            "2",
            "--data-dir",
            "/tmp/x",
            "-k",
            "dk_1",
        ])
        .unwrap();
        let settings = arguments.settings();
        assert!(
            settings.contains(&("DALSTON_WORKER_CONCURRENCY", "2".to_owned())),
            "{settings:?}"
        );
        assert!(
            settings.contains(&("DALSTON_DATA_DIR", "/tmp/x".to_owned())),
            "{settings:?}"
        );
        assert!(
            settings.contains(&("DALSTON_API_KEY", "dk_1".to_owned())),
            "{settings:?}"
        );
        assert!(
            !settings.iter().any(|(name, _)| *name == "DALSTON_SERVER"),
            "{settings:?}"
        );
    }

    #[test]
    fn every_command_and_option_explains_itself() {
        fn walk(command: &clap::Command) {
            assert!(
                command.get_about().is_some(),
                "{} has no help",
                command.get_name()
            );
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {} has no help",
                    command.get_name(),
                    argument.get_id()
                );
            }
            command
                .get_subcommands()
                .filter(|command| command.get_name() != "help")
                .for_each(walk);
        }
        walk(&Arguments::command());
    }
}
