//! How transcripts are written and where to.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use super::Format;
use crate::Usage;
use crate::client::Client;
use crate::client::upload::Source;
use crate::print;

/// Where results go.
#[derive(Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Terminal,
    /// One file.
    File(PathBuf),
    /// One file for each input in a folder.
    Folder(PathBuf, Format),
}

impl Destination {
    /// One input goes to the file named, or into the folder named; several go into the folder named, which is made when
    /// missing.
    pub fn choose(
        output: Option<&Path>,
        inputs: usize,
        format: Format,
    ) -> anyhow::Result<Destination> {
        let Some(output) = output else {
            return Ok(Destination::Terminal);
        };
        let means_folder = output.is_dir() || output.as_os_str().as_encoded_bytes().ends_with(b"/");
        if inputs > 1 && output.is_file() {
            return Err(Usage(format!(
                "--output {} is a file, but there are {inputs} inputs; name a folder",
                output.display()
            ))
            .into());
        }
        if !means_folder && inputs == 1 {
            return Ok(Destination::File(output.to_owned()));
        }
        std::fs::create_dir_all(output)
            .with_context(|| format!("creating {}", output.display()))?;
        Ok(Destination::Folder(output.to_owned(), format))
    }

    /// Writes the result of the input called `name`.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = match self {
            Destination::Terminal => {
                print::text(text);
                return Ok(());
            }
            Destination::File(path) => path.clone(),
            // The whole name is kept: `a.wav` and `a.mp3` must not become one file.
            Destination::Folder(folder, format) => {
                folder.join(format!("{name}.{}", format.as_str()))
            }
        };
        let ended = if text.is_empty() || text.ends_with('\n') {
            text.to_owned()
        } else {
            format!("{text}\n")
        };
        std::fs::write(&path, ended).with_context(|| format!("writing {}", path.display()))
    }

    /// Writes the JSON of all inputs together.
    pub fn write_json(&self, value: &Value) -> anyhow::Result<()> {
        match self {
            Destination::Terminal => {
                print::json(value);
                Ok(())
            }
            Destination::File(_) | Destination::Folder(..) => {
                self.write("transcripts", &format!("{value:#}"))
            }
        }
    }
}

/// What a transcript looks like.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Its form.
    pub format: Format,
    /// With speaker names.
    pub speakers: bool,
    /// Every word on a line of its own, with its times.
    pub words: bool,
    /// Preceded by the input's name.
    pub heading: bool,
}

impl Layout {
    /// The text of a finished job.
    pub async fn render(
        self,
        client: &Client,
        source: &Source,
        job: &Value,
    ) -> anyhow::Result<String> {
        let body = if self.words {
            words(job)
        } else {
            let id = job["id"].as_str().unwrap_or_default();
            let query = [("include_speakers", self.speakers.to_string())];
            client
                .text(
                    &[
                        "v1",
                        "audio",
                        "transcriptions",
                        id,
                        "export",
                        self.format.as_str(),
                    ],
                    &query,
                )
                .await?
        };
        let heading = self.heading && self.format == Format::Txt;
        Ok(if heading {
            format!("==> {} <==\n{body}\n", source.name())
        } else {
            body
        })
    }
}

/// `start  end  confidence  word` for every word.
fn words(job: &Value) -> String {
    let segments = job["segments"].as_array().into_iter().flatten();
    let words = segments.flat_map(|segment| segment["words"].as_array().into_iter().flatten());
    let rows: Vec<[String; 4]> = words
        .map(|word| {
            let seconds = |name: &str| {
                word[name]
                    .as_f64()
                    .map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
            };
            [
                seconds("start"),
                seconds("end"),
                seconds("confidence"),
                word["text"].as_str().unwrap_or_default().trim().to_owned(),
            ]
        })
        .collect();
    print::table(["START", "END", "CONFIDENCE", "WORD"], &rows)
}

/// Adds `speaker_id` to every segment, the name scripts written for the original command line read.
pub fn with_speaker_ids(mut job: Value) -> Value {
    let segments = job.get_mut("segments").and_then(Value::as_array_mut);
    for segment in segments
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        let speaker = segment.get("speaker").cloned().unwrap_or_default();
        segment.insert("speaker_id".to_owned(), speaker);
    }
    job
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn the_destination_follows_from_the_path_and_the_number_of_inputs() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("old.srt"), "").unwrap();
        assert_eq!(
            Destination::choose(None, 3, Format::Srt).unwrap(),
            Destination::Terminal
        );
        assert_eq!(
            Destination::choose(Some(&path("new.srt")), 1, Format::Srt).unwrap(),
            Destination::File(path("new.srt"))
        );
        assert!(
            Destination::choose(Some(&path("old.srt")), 2, Format::Srt)
                .unwrap_err()
                .is::<Usage>()
        );
        let several = Destination::choose(Some(&path("out")), 2, Format::Srt).unwrap();
        several.write("a.wav", "text").unwrap();
        several.write("a.mp3", "other\n").unwrap();
        assert_eq!(
            std::fs::read_to_string(path("out/a.wav.srt")).unwrap(),
            "text\n"
        );
        assert_eq!(
            std::fs::read_to_string(path("out/a.mp3.srt")).unwrap(),
            "other\n"
        );
    }

    #[test]
    fn words_are_listed_with_their_times() {
        let job = json!({"segments": [{"words": [{"text": " hello", "start": 0.5, "end": 0.75, "confidence": null}]}]});
        assert_eq!(
            words(&job),
            "START  END   CONFIDENCE  WORD\n0.50   0.75  -           hello"
        );
    }

    #[test]
    fn segments_get_the_speaker_under_both_names() {
        let job = with_speaker_ids(json!({"segments": [{"speaker": "SPEAKER_00"}, {"text": "x"}]}));
        assert_eq!(job["segments"][0]["speaker_id"], "SPEAKER_00");
        assert_eq!(job["segments"][1]["speaker_id"], Value::Null);
    }
}
