//! The options of `dalston transcribe` that become fields of its request.

use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::Usage;

/// What is asked of the server.
#[derive(Debug, Args)]
pub struct Request {
    /// Model id, or auto for the best one present
    #[arg(long, short = 'm', default_value = "auto")]
    model: String,
    /// Language (en, de …), or auto to detect it
    #[arg(long, short = 'l', default_value = "auto")]
    language: String,
    /// A name or term to expect (repeatable)
    #[arg(long = "vocab", short = 'v', value_name = "TERM")]
    vocabulary: Vec<String>,
    /// How to tell speakers apart
    #[arg(long, value_enum, default_value = "none")]
    speakers: Speakers,
    /// Exact number of speakers, with --speakers diarize
    #[arg(long, value_parser = RangedU64ValueParser::<u32>::new().range(1..=32))]
    num_speakers: Option<u32>,
    /// Fewest speakers, with --speakers diarize
    #[arg(long, value_parser = RangedU64ValueParser::<u32>::new().range(1..=32))]
    min_speakers: Option<u32>,
    /// Most speakers, with --speakers diarize
    #[arg(long, value_parser = RangedU64ValueParser::<u32>::new().range(1..=32))]
    max_speakers: Option<u32>,
    /// A speaker's name, given in order of first speech; or with 2 to 10 s of the voice in CLIP (repeatable)
    #[arg(long = "known-speaker", value_name = "NAME[=CLIP]")]
    known_speakers: Vec<String>,
    /// What gets times
    #[arg(long, value_enum, default_value = "word")]
    timestamps: Timestamps,
    /// Model that aligns words; else the best there is, where the transcriber times none or only by attention
    #[arg(long, value_name = "MODEL")]
    model_align: Option<String>,
    /// Model that tells speakers apart
    #[arg(long, value_name = "MODEL")]
    model_diarize: Option<String>,
    /// One task for each stage, or one for transcribe, align and diarize together
    #[arg(long, value_enum, default_value = "staged")]
    pipeline: Pipeline,
    /// Seconds of the parts that a long file is cut into for several workers; 0 never cuts
    #[arg(long, value_name = "SECONDS")]
    chunk_seconds: Option<f64>,
    /// Days to keep the job (audio and transcript) after its end: 0 purges within two minutes, -1 keeps for ever
    #[arg(long, short = 'r', allow_negative_numbers = true)]
    retention: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
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
    /// As `segment`: a segment always has its time
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pipeline {
    /// A task for each stage
    Staged,
    /// One task
    Integrated,
}

impl Request {
    /// The form fields, by the names the API has for them.
    ///
    /// # Errors
    /// [`Usage`] for options that contradict each other, and when a speaker's clip cannot be read.
    pub fn fields(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        self.check()?;
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
        if self.pipeline == Pipeline::Integrated {
            fields.push(("pipeline", "integrated".to_owned()));
        }
        let optional = [
            ("num_speakers", self.num_speakers.map(|n| n.to_string())),
            ("min_speakers", self.min_speakers.map(|n| n.to_string())),
            ("max_speakers", self.max_speakers.map(|n| n.to_string())),
            ("model_align", self.model_align.clone()),
            ("model_diarize", self.model_diarize.clone()),
            (
                "chunk_target_seconds",
                self.chunk_seconds.map(|seconds| seconds.to_string()),
            ),
            ("retention", self.retention.map(|days| days.to_string())),
        ];
        let given = optional.into_iter();
        fields.extend(given.filter_map(|(name, value)| Some((name, value?))));
        self.add_known_speakers(&mut fields)?;
        Ok(fields)
    }

    /// What the server would refuse after the upload is refused before it.
    fn check(&self) -> anyhow::Result<()> {
        let problem = match (self.min_speakers, self.max_speakers) {
            (Some(min), Some(max)) if min > max => {
                format!("--min-speakers {min} is more than --max-speakers {max}")
            }
            _ if self.speakers != Speakers::Diarize && self.counts_speakers() => {
                "--num-speakers, --min-speakers and --max-speakers need --speakers diarize"
                    .to_owned()
            }
            _ if self.speakers == Speakers::None && !self.known_speakers.is_empty() => {
                "--known-speaker needs --speakers diarize or per-channel".to_owned()
            }
            _ => return Ok(()),
        };
        Err(Usage(problem).into())
    }

    fn counts_speakers(&self) -> bool {
        let counts = [self.num_speakers, self.min_speakers, self.max_speakers];
        counts.iter().any(Option::is_some)
    }

    fn add_known_speakers(&self, fields: &mut Vec<(&'static str, String)>) -> anyhow::Result<()> {
        let known = self.known_speakers.iter();
        let split = known.map(|text| match text.split_once('=') {
            Some((name, clip)) => (name, Some(Path::new(clip))),
            None => (text.as_str(), None),
        });
        for (name, clip) in split {
            fields.push(("known_speaker_names[]", name.to_owned()));
            if let Some(clip) = clip {
                fields.push(("known_speaker_references[]", data_url(clip)?));
            }
        }
        Ok(())
    }
}

/// A file as a `data:` URL.
fn data_url(path: &Path) -> anyhow::Result<String> {
    let content = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let extension = path.extension().and_then(|extension| extension.to_str());
    let subtype = extension.unwrap_or("octet-stream").to_ascii_lowercase();
    Ok(format!(
        "data:audio/{subtype};base64,{}",
        STANDARD.encode(content)
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        request: Request,
    }

    fn parse(words: &[&str]) -> Request {
        Line::try_parse_from(["transcribe"].iter().chain(words))
            .unwrap()
            .request
    }

    #[test]
    fn options_become_the_fields_of_the_form() {
        let request = parse(&[
            "-m",
            "whisper-base",
            "-l",
            "de",
            "-v",
            "Dalston",
            "-v",
            "ONNX",
            "--speakers",
            "diarize",
            "--max-speakers",
            "3",
            "--pipeline",
            "integrated",
            "--chunk-seconds",
            "90",
            "-r",
            "-1",
        ]);
        let fields = request.fields().unwrap();
        let field = |name: &str| {
            fields
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(field("model"), Some("whisper-base"));
        assert_eq!(field("vocabulary"), Some(r#"["Dalston","ONNX"]"#));
        assert_eq!(field("speaker_detection"), Some("diarize"));
        assert_eq!(field("timestamps_granularity"), Some("word"));
        assert_eq!(field("max_speakers"), Some("3"));
        assert_eq!(field("num_speakers"), None);
        assert_eq!(field("pipeline"), Some("integrated"));
        assert_eq!(field("chunk_target_seconds"), Some("90"));
        assert_eq!(field("retention"), Some("-1"));
    }

    #[test]
    fn known_speakers_bring_their_clips() {
        let folder = tempfile::tempdir().unwrap();
        let clip = folder.path().join("ann.WAV");
        std::fs::write(&clip, b"RIFF").unwrap();
        let ann = format!("Ann={}", clip.display());
        let request = parse(&["--speakers", "diarize", "--known-speaker", &ann]);
        let fields = request.fields().unwrap();
        assert!(fields.contains(&("known_speaker_names[]", "Ann".to_owned())));
        let reference = "data:audio/wav;base64,UklGRg==".to_owned();
        assert!(fields.contains(&("known_speaker_references[]", reference)));
        let missing = parse(&[
            "--speakers",
            "diarize",
            "--known-speaker",
            "Bob=/no/such.wav",
        ]);
        assert!(
            missing
                .fields()
                .unwrap_err()
                .to_string()
                .contains("/no/such.wav")
        );
    }

    #[test]
    fn contradictions_are_wrong_use() {
        for words in [
            &["--min-speakers", "3", "--max-speakers", "2"][..],
            &["--num-speakers", "2"],
            &["--speakers", "per-channel", "--max-speakers", "3"],
            &["--known-speaker", "Ann"],
        ] {
            assert!(
                parse(words).fields().unwrap_err().is::<Usage>(),
                "{words:?}"
            );
        }
        assert!(Line::try_parse_from(["transcribe", "--num-speakers", "33"]).is_err());
        assert!(Line::try_parse_from(["transcribe", "--num-speakers", "0"]).is_err());
    }
}
