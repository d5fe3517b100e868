//! `dalston export`: a finished transcript in one of its forms.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::transcribe::Format;
use crate::config::Config;
use crate::local_server::{Absent, Connection};
use crate::print;

/// Options of `dalston export`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dalston export 0199… --format srt --max-line-length 32 --output talk.srt"
)]
pub struct Export {
    /// The job's id
    id: String,
    /// What to write; without it what the name of the output file says, else txt
    #[arg(long, short = 'f', value_enum)]
    format: Option<Format>,
    /// File to write to; without it, standard output
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    /// Leave speaker names out
    #[arg(long)]
    no_speakers: bool,
    /// Longest line in characters, 10 to 200
    #[arg(long, value_parser = RangedU64ValueParser::<u32>::new().range(10..=200))]
    max_line_length: Option<u32>,
    /// Most lines of one subtitle, 1 to 10
    #[arg(long, value_parser = RangedU64ValueParser::<u32>::new().range(1..=10))]
    max_lines: Option<u32>,
}

/// Fetches the export and writes it.
pub async fn run(options: Export, config: Config) -> anyhow::Result<()> {
    let client = Connection::open(&config, Absent::Fail)
        .await?
        .client
        .clone();
    let query: Vec<(&str, String)> = [
        ("include_speakers", Some((!options.no_speakers).to_string())),
        (
            "max_line_length",
            options.max_line_length.map(|length| length.to_string()),
        ),
        (
            "max_lines",
            options.max_lines.map(|lines| lines.to_string()),
        ),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    let format = Format::choose(options.format, options.output.as_deref());
    let text = client
        .text(
            &[
                "v1",
                "audio",
                "transcriptions",
                &options.id,
                "export",
                format.as_str(),
            ],
            &query,
        )
        .await?;
    write(options.output.as_deref(), &text)
}

/// Writes to the file named, or to standard output.
pub fn write(output: Option<&Path>, text: &str) -> anyhow::Result<()> {
    match output {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
        }
        None => {
            print::text(text);
            Ok(())
        }
    }
}
