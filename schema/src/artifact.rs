//! Object-store keys. They are made here, from ids, and nowhere else; nothing a user typed is ever part of one.

use std::fmt;

use crate::ids::{JobId, TaskId};

/// The key of one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ArtifactKey(String);

impl ArtifactKey {
    /// The upload of a job: `jobs/{job}/audio/original.{extension}`. An extension that is not one to eight lower-case
    /// letters or digits becomes `bin`.
    #[must_use]
    pub fn original_audio(job: JobId, extension: &str) -> Self {
        Self(format!(
            "jobs/{job}/audio/original.{}",
            plain_extension(extension)
        ))
    }

    /// A further file of a job that has several: `jobs/{job}/audio/track{n}.{extension}`, `n` from 1.
    #[must_use]
    pub fn track_audio(job: JobId, index: usize, extension: &str) -> Self {
        Self(format!(
            "jobs/{job}/audio/track{index}.{}",
            plain_extension(extension)
        ))
    }

    /// A recording of a known speaker: `jobs/{job}/audio/speaker{n}.{extension}`, `n` from 0.
    #[must_use]
    pub fn speaker_reference(job: JobId, index: usize, extension: &str) -> Self {
        Self(format!(
            "jobs/{job}/audio/speaker{index}.{}",
            plain_extension(extension)
        ))
    }

    /// Prepared 16 kHz mono audio: `jobs/{job}/tasks/{task}/prepared.wav`, or `prepared_ch{n}.wav` for one channel.
    #[must_use]
    pub fn prepared_audio(job: JobId, task: TaskId, channel: Option<u16>) -> Self {
        Self(match channel {
            None => format!("jobs/{job}/tasks/{task}/prepared.wav"),
            Some(channel) => format!("jobs/{job}/tasks/{task}/prepared_ch{channel}.wav"),
        })
    }

    /// The prefix of everything that belongs to a job.
    #[must_use]
    pub fn job_prefix(job: JobId) -> String {
        format!("jobs/{job}")
    }

    /// The prefix of a job's original and redacted audio.
    #[must_use]
    pub fn job_audio_prefix(job: JobId) -> String {
        format!("jobs/{job}/audio")
    }

    /// A file of a model that workers share: `models/{folder}/{path}`. `model` is a checked model id and `path` a path
    /// of the model's own manifest.
    #[must_use]
    pub fn model_file(model: &str, path: &str) -> Self {
        Self(format!("{}/{path}", Self::model_prefix(model)))
    }

    /// The prefix of everything that belongs to a shared model: its id, with `--` for the slash.
    #[must_use]
    pub fn model_prefix(model: &str) -> String {
        format!("models/{}", model.replace('/', "--"))
    }

    /// Takes a key that this module made earlier and that was stored in the database.
    #[must_use]
    pub fn from_stored(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn plain_extension(extension: &str) -> &str {
    let plain = (1..=8).contains(&extension.len())
        && extension
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if plain { extension } else { "bin" }
}

impl fmt::Display for ArtifactKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_extension_never_reaches_the_key() {
        let job = JobId::generate();
        for odd in ["", "../../x", "WAV", "a/b", "verylongextension"] {
            assert_eq!(
                ArtifactKey::original_audio(job, odd).as_str(),
                format!("jobs/{job}/audio/original.bin")
            );
        }
        assert!(
            ArtifactKey::original_audio(job, "mp3")
                .as_str()
                .ends_with("original.mp3")
        );
    }
}
