//! `dalston transcribe`: files or URLs in, transcripts out.

mod output;
mod progress;
mod request;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use futures_util::StreamExt;
use serde_json::Value;

use crate::Usage;
use crate::client::upload::{self, Source, Track};
use crate::client::{Client, events};
use crate::config::Config;
use crate::local_server::{Absent, Connection};
use crate::print;

use output::{Destination, Layout};
use progress::Bars;
use request::Request;

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
  dalston transcribe meeting.mp3 --speakers diarize --known-speaker Ann=ann.wav --known-speaker Bob=bob.wav
  dalston transcribe ann.wav bob.wav --tracks --offset 0 --offset 1.5 --format vtt

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
    /// Take the FILEs for tracks of one recording, each with one speaker, named as its file
    #[arg(long)]
    tracks: bool,
    /// Where a track begins, in seconds, in the order of the FILEs (repeatable)
    #[arg(
        long = "offset",
        value_name = "SECONDS",
        requires = "tracks",
        allow_negative_numbers = true
    )]
    offsets: Vec<f64>,
    #[command(flatten)]
    request: Request,
    /// Where to write: a file, or a folder when there are several inputs; without it, standard output
    #[arg(long, short = 'o', value_name = "PATH")]
    output: Option<PathBuf>,
    /// What to write; without it what the name of the output file says, else txt
    #[arg(long, short = 'f', value_enum)]
    format: Option<Format>,
    /// Wait for the result (this is the default)
    #[arg(long, short = 'w', overrides_with = "no_wait")]
    wait: bool,
    /// Print the job ids and return at once
    #[arg(long)]
    no_wait: bool,
    /// Print each job as JSON, with the text, segments and speakers
    #[arg(long)]
    json: bool,
    /// Leave speaker names out of the text
    #[arg(long)]
    no_speakers: bool,
    /// Print every word with its times
    #[arg(long)]
    show_words: bool,
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

    /// The form that was asked for, else the one that the name of the output file says, else text.
    pub fn choose(asked: Option<Format>, output: Option<&Path>) -> Format {
        let named = || {
            let extension = output?.extension()?.to_str()?.to_ascii_lowercase();
            let forms = Format::value_variants().iter();
            forms.copied().find(|form| form.as_str() == extension)
        };
        asked.or_else(named).unwrap_or(Format::Txt)
    }
}

/// Transcribes everything and answers 1 when something failed.
pub async fn run(options: Transcribe, config: Config, quiet: bool) -> anyhow::Result<ExitCode> {
    let sources = options.sources()?;
    let fields = options.request.fields()?;
    options.check_names(&sources)?;
    let format = options.format(sources.len())?;
    let destination = Destination::choose(
        options.output.as_deref(),
        sources.len(),
        if options.json { Format::Json } else { format },
    )?;
    let connection = Connection::open(&config, Absent::Start { quiet }).await?;
    let bars = Bars::new(quiet);
    let work = futures_util::stream::iter(&sources)
        .map(|source| one(&connection.client, source, &fields, options.no_wait, &bars));
    let results: Vec<anyhow::Result<Value>> = work.buffered(AT_A_TIME).collect().await;
    let code = options
        .finish(
            &connection.client,
            &sources,
            results,
            (&destination, format),
        )
        .await;
    connection.close().await?;
    code
}

/// Submits one source and, unless told not to, waits for its end. Answers the job.
async fn one(
    client: &Client,
    source: &Source,
    fields: &[(&'static str, String)],
    no_wait: bool,
    bars: &Bars,
) -> anyhow::Result<Value> {
    let bar = bars.add(source);
    let job = upload::submit(client, source, fields, bar.upload()).await?;
    if no_wait {
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
        if self.tracks {
            return Ok(vec![Source::Tracks(self.in_tracks(sources)?)]);
        }
        Ok(sources)
    }

    /// Inputs of one name would become one file of a folder.
    fn check_names(&self, sources: &[Source]) -> anyhow::Result<()> {
        if self.json || self.output.is_none() {
            return Ok(());
        }
        let mut seen = HashSet::new();
        match sources.iter().find(|source| !seen.insert(source.name())) {
            None => Ok(()),
            Some(twice) => Err(Usage(format!(
                "two inputs are called {}; transcribe them one after the other, into different folders",
                twice.name()
            ))
            .into()),
        }
    }

    /// The form of the transcripts. Most are files of their own, and no longer any when several follow each other.
    fn format(&self, inputs: usize) -> anyhow::Result<Format> {
        let output = self.output.as_deref();
        let format = Format::choose(self.format, output.filter(|_| inputs == 1));
        let texts = self.json || self.no_wait || self.show_words;
        if inputs > 1 && output.is_none() && !texts && !matches!(format, Format::Txt | Format::Json)
        {
            let form = format.as_str();
            return Err(Usage(format!(
                "{inputs} inputs give {inputs} {form} files; name a folder for them with --output"
            ))
            .into());
        }
        Ok(format)
    }

    /// The files of one recording.
    fn in_tracks(&self, sources: Vec<Source>) -> anyhow::Result<Vec<Track>> {
        if self.offsets.len() > sources.len() || sources.len() < 2 {
            return Err(Usage(
                "--tracks needs two files or more, and at most one --offset for each".to_owned(),
            )
            .into());
        }
        if let Some(offset) = self.offsets.iter().find(|offset| **offset < 0.0) {
            return Err(Usage(format!(
                "--offset {offset} is before the beginning; give the earliest file 0 and the others more"
            ))
            .into());
        }
        let offsets = self.offsets.iter().copied().chain(std::iter::repeat(0.0));
        sources
            .into_iter()
            .zip(offsets)
            .map(|(source, offset)| match source {
                Source::File(path) => Ok(Track { path, offset }),
                source => {
                    let problem = format!("--tracks needs files; {} is none", source.name());
                    Err(Usage(problem).into())
                }
            })
            .collect()
    }

    /// Writes what came out and says what did not.
    async fn finish(
        &self,
        client: &Client,
        sources: &[Source],
        results: Vec<anyhow::Result<Value>>,
        (destination, format): (&Destination, Format),
    ) -> anyhow::Result<ExitCode> {
        let layout = Layout {
            format,
            speakers: !self.no_speakers,
            words: self.show_words,
            heading: sources.len() > 1 && *destination == Destination::Terminal,
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
                    print::note(format!("{}: {}", source.name(), events::how_it_ended(&job)));
                    jobs.push(job);
                }
                Err(error) => {
                    failed = true;
                    print::note(format!("{}: {}", source.name(), print::chain(&error)));
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
    fn the_form_follows_the_option_then_the_name_of_the_file() {
        for (words, inputs, form) in [
            (&["a.wav"][..], 1, Format::Txt),
            (&["a.wav", "-o", "a.SRT"], 1, Format::Srt),
            (&["a.wav", "-o", "a.srt", "-f", "vtt"], 1, Format::Vtt),
            (&["a.wav", "-o", "transcript.docx"], 1, Format::Txt),
            (&["a.wav", "b.wav", "-o", "folder.srt"], 2, Format::Txt),
            (
                &["a.wav", "b.wav", "-o", "out", "-f", "srt"],
                2,
                Format::Srt,
            ),
            (&["a.wav", "b.wav", "-f", "json"], 2, Format::Json),
            (
                &["a.wav", "b.wav", "-f", "srt", "--no-wait"],
                2,
                Format::Srt,
            ),
        ] {
            assert_eq!(parse(words).format(inputs).unwrap(), form, "{words:?}");
        }
        let error = parse(&["a.wav", "b.wav", "-f", "srt"])
            .format(2)
            .unwrap_err();
        assert!(
            error.is::<Usage>() && error.to_string().contains("--output"),
            "{error}"
        );
    }

    #[test]
    fn tracks_are_one_source_with_an_offset_each() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<String> = ["ann.wav", "bob.wav"]
            .iter()
            .map(|name| folder.path().join(name).to_str().unwrap().to_owned())
            .collect();
        for path in &paths {
            std::fs::write(path, b"").unwrap();
        }
        let sources = |more: &[&str]| {
            let words: Vec<&str> = paths
                .iter()
                .map(String::as_str)
                .chain(more.iter().copied())
                .collect();
            parse(&words).sources()
        };
        let tracks = sources(&["--tracks", "--offset", "0", "--offset", "1.5"]).unwrap();
        let [Source::Tracks(tracks)] = tracks.as_slice() else {
            panic!("{tracks:?}");
        };
        assert_eq!(tracks[1].offset, 1.5);
        let too_many = [
            "--tracks", "--offset", "0", "--offset", "1", "--offset", "2",
        ];
        assert!(sources(&too_many).unwrap_err().is::<Usage>());
        assert!(
            parse(&[&paths[0], "--tracks"])
                .sources()
                .unwrap_err()
                .is::<Usage>()
        );
        assert!(Line::try_parse_from(["transcribe", "a.wav", "--offset", "1"]).is_err());
    }
}
