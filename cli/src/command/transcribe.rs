//! `dalston transcribe`: files or URLs in, transcripts out.

mod output;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::Usage;
use crate::client::upload::{self, Source};
use crate::client::{Client, events};
use crate::config::Config;
use crate::local_server::{Absent, Connection};
use crate::print;

use output::{Destination, Layout};
use progress::Bars;

/// Files transcribed at a time; more would only wait in the server's queue.
const AT_A_TIME: usize = 4;

/// Shown under `dalston transcribe --help`.
const EXAMPLES: &str = "\
Examples:
  dalston transcribe meeting.mp3
  dalston transcribe meeting.mp3 --format srt --output meeting.srt
  dalston transcribe https://example.org/talk.mp4 --language de --model whisper-base
  dalston transcribe *.wav --json | jq -r '.[].text'
  dalston transcribe call.wav --speakers per-channel --show-words

Exit code: 0 when every file was transcribed, 1 when one failed, 2 for wrong options.";

/// Options of `dalston transcribe`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Transcribe {
    /// Audio or video files, or http(s) URLs
    #[arg(value_name = "FILE|URL")]
    sources: Vec<String>,
    /// A URL for the server to fetch (repeatable)
    #[arg(long, short = 'u', value_name = "URL")]
    url: Vec<String>,
    /// Model id, or auto for the best one present
    #[arg(long, short = 'm', default_value = "auto")]
    model: String,
    /// Language (en, de …), or auto to detect it
    #[arg(long, short = 'l', default_value = "auto")]
    language: String,
    /// A name or term to expect (repeatable)
    #[arg(long = "vocab", short = 'v', value_name = "TERM")]
    vocabulary: Vec<String>,
    /// Where to write: a file, or a folder when there are several inputs; without it, standard output
    #[arg(long, short = 'o', value_name = "PATH")]
    output: Option<PathBuf>,
    /// What to write
    #[arg(long, short = 'f', value_enum, default_value = "txt")]
    format: Format,
    /// Wait for the result (this is the default)
    #[arg(long, short = 'w', overrides_with = "no_wait")]
    wait: bool,
    /// Print the job ids and return at once
    #[arg(long)]
    no_wait: bool,
    /// Print each job as JSON, with the text, segments and speakers
    #[arg(long)]
    json: bool,
    /// How to tell speakers apart
    #[arg(long, value_enum, default_value = "none")]
    speakers: Speakers,
    /// Exact number of speakers
    #[arg(long, value_parser = RangedU64ValueParser::<u32>::new().range(1..=32))]
    num_speakers: Option<u32>,
    /// Fewest speakers
    #[arg(long, value_parser = RangedU64ValueParser::<u32>::new().range(1..=32))]
    min_speakers: Option<u32>,
    /// Most speakers
    #[arg(long, value_parser = RangedU64ValueParser::<u32>::new().range(1..=32))]
    max_speakers: Option<u32>,
    /// What gets times
    #[arg(long, value_enum, default_value = "word")]
    timestamps: Timestamps,
    /// Leave speaker names out of the text
    #[arg(long)]
    no_speakers: bool,
    /// Print every word with its times
    #[arg(long)]
    show_words: bool,
    /// Days to keep the audio: 0 not at all, -1 for ever
    #[arg(long, short = 'r', allow_negative_numbers = true)]
    retention: Option<i32>,
}

/// Forms of a transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Plain text
    Txt,
    /// The whole transcript
    Json,
    /// SubRip subtitles
    Srt,
    /// WebVTT subtitles
    Vtt,
    /// Times and texts in columns
    Tsv,
    /// Who spoke when
    Rttm,
    /// Timed lines for music players
    Lrc,
}

impl Format {
    /// The name in export addresses, and the file extension.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Txt => "txt",
            Format::Json => "json",
            Format::Srt => "srt",
            Format::Vtt => "vtt",
            Format::Tsv => "tsv",
            Format::Rttm => "rttm",
            Format::Lrc => "lrc",
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Speakers {
    /// One speaker
    None,
    /// By their voices
    Diarize,
    /// One on each channel
    PerChannel,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Timestamps {
    /// Every word
    Word,
    /// Every segment
    Segment,
    /// Nothing
    None,
}

/// Transcribes everything and answers 1 when something failed.
pub async fn run(options: Transcribe, config: Config, quiet: bool) -> anyhow::Result<ExitCode> {
    let sources = options.sources()?;
    let destination = Destination::choose(
        options.output.as_deref(),
        sources.len(),
        if options.json {
            Format::Json
        } else {
            options.format
        },
    )?;
    let connection = Connection::open(&config, Absent::Start { quiet }).await?;
    let bars = Bars::new(quiet);
    let work = futures_util::stream::iter(&sources)
        .map(|source| one(&connection.client, source, &options, &bars));
    let results: Vec<anyhow::Result<Value>> = work.buffered(AT_A_TIME).collect().await;
    let code = options
        .finish(&connection.client, &sources, results, &destination)
        .await;
    connection.close().await?;
    code
}

/// Submits one source and, unless told not to, waits for its end. Answers the job.
async fn one(
    client: &Client,
    source: &Source,
    options: &Transcribe,
    bars: &Bars,
) -> anyhow::Result<Value> {
    let bar = bars.add(source);
    let job = upload::submit(client, source, &options.fields(), bar.upload()).await?;
    if options.no_wait {
        bar.clear();
        return Ok(job);
    }
    let id = job["id"]
        .as_str()
        .ok_or_else(|| anyhow::anyhow!("the server's answer has no job id"))?;
    bar.waiting();
    let job = events::follow(client, id, None, |progress| bar.advance(&progress)).await;
    bar.clear();
    job
}

impl Transcribe {
    fn sources(&self) -> anyhow::Result<Vec<Source>> {
        let is_url = |text: &str| text.starts_with("http://") || text.starts_with("https://");
        let positional = self.sources.iter().map(|text| {
            if is_url(text) {
                Source::Url(text.clone())
            } else {
                Source::File(text.into())
            }
        });
        let sources: Vec<Source> = positional
            .chain(self.url.iter().cloned().map(Source::Url))
            .collect();
        if sources.is_empty() {
            return Err(Usage(
                "name a file or URL to transcribe; see `dalston transcribe --help`".to_owned(),
            )
            .into());
        }
        for source in &sources {
            // Before anything is uploaded: the tenth of ten names may be misspelt.
            if let Source::File(path) = source
                && !path.is_file()
            {
                return Err(Usage(format!("{} is not a file", path.display())).into());
            }
        }
        Ok(sources)
    }

    /// The form fields of this command line, by the names the API has for them.
    fn fields(&self) -> Vec<(&'static str, String)> {
        let speakers = match self.speakers {
            Speakers::None => "none",
            Speakers::Diarize => "diarize",
            Speakers::PerChannel => "per_channel",
        };
        let timestamps = match self.timestamps {
            Timestamps::Word => "word",
            Timestamps::Segment => "segment",
            Timestamps::None => "none",
        };
        let mut fields = vec![
            ("model", self.model.clone()),
            ("language", self.language.clone()),
            ("speaker_detection", speakers.to_owned()),
            ("timestamps_granularity", timestamps.to_owned()),
        ];
        if !self.vocabulary.is_empty() {
            fields.push(("vocabulary", json!(self.vocabulary).to_string()));
        }
        let optional = [
            (
                "num_speakers",
                self.num_speakers.map(|count| count.to_string()),
            ),
            (
                "min_speakers",
                self.min_speakers.map(|count| count.to_string()),
            ),
            (
                "max_speakers",
                self.max_speakers.map(|count| count.to_string()),
            ),
            ("retention", self.retention.map(|days| days.to_string())),
        ];
        fields.extend(
            optional
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        fields
    }

    /// Writes what came out and says what did not.
    async fn finish(
        &self,
        client: &Client,
        sources: &[Source],
        results: Vec<anyhow::Result<Value>>,
        destination: &Destination,
    ) -> anyhow::Result<ExitCode> {
        let layout = Layout {
            format: self.format,
            speakers: !self.no_speakers,
            words: self.show_words,
            heading: sources.len() > 1,
        };
        let mut jobs = Vec::new();
        let mut failed = false;
        for (source, result) in sources.iter().zip(results) {
            match result {
                Ok(job) if self.no_wait || job["status"] == "completed" => {
                    if self.no_wait && !self.json {
                        print::line(job["id"].as_str().unwrap_or_default());
                    } else if !self.json {
                        destination
                            .write(&source.name(), &layout.render(client, source, &job).await?)?;
                    }
                    jobs.push(output::with_speaker_ids(job));
                }
                Ok(job) => {
                    failed = true;
                    let reason = job["error"].as_str().unwrap_or("no reason given");
                    print::note(format!(
                        "{}: {}: {reason}",
                        source.name(),
                        job["status"].as_str().unwrap_or("failed")
                    ));
                    jobs.push(job);
                }
                Err(error) => {
                    failed = true;
                    print::note(format!("{}: {error:#}", source.name()));
                }
            }
        }
        if self.json {
            // One input, one object; several, a list.
            let value = if sources.len() == 1 {
                jobs.pop().unwrap_or(Value::Null)
            } else {
                Value::Array(jobs)
            };
            destination.write_json(&value)?;
        }
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Transcribe,
    }

    fn parse(words: &[&str]) -> Transcribe {
        Line::try_parse_from(["transcribe"].iter().chain(words))
            .unwrap()
            .options
    }

    #[test]
    fn options_become_the_fields_of_the_form() {
        let options = parse(&[
            "a.wav",
            "-m",
            "whisper-base",
            "-l",
            "de",
            "-v",
            "Dalston",
            "-v",
            "ONNX",
            "--speakers",
            "per-channel",
            "--max-speakers",
            "3",
            "-r",
            "-1",
        ]);
        let fields = options.fields();
        let field = |name: &str| {
            fields
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(field("model"), Some("whisper-base"));
        assert_eq!(field("vocabulary"), Some(r#"["Dalston","ONNX"]"#));
        assert_eq!(field("speaker_detection"), Some("per_channel"));
        assert_eq!(field("timestamps_granularity"), Some("word"));
        assert_eq!(field("max_speakers"), Some("3"));
        assert_eq!(field("num_speakers"), None);
        assert_eq!(field("retention"), Some("-1"));
    }

    #[test]
    fn a_missing_file_is_wrong_use_and_found_before_anything_is_sent() {
        let error = parse(&["/no/such/file.wav"]).sources().unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("/no/such/file.wav"));
        assert!(parse(&[]).sources().unwrap_err().is::<Usage>());
        let sources = parse(&["https://host/a.mp3", "-u", "http://host/b.mp3"])
            .sources()
            .unwrap();
        assert!(matches!(
            sources.as_slice(),
            [Source::Url(_), Source::Url(_)]
        ));
    }

    #[test]
    fn speaker_counts_are_bounded() {
        assert!(Line::try_parse_from(["transcribe", "a.wav", "--num-speakers", "33"]).is_err());
        assert!(Line::try_parse_from(["transcribe", "a.wav", "--num-speakers", "0"]).is_err());
    }
}
