//! What can go wrong between a user's file and 16 kHz samples.
//!
//! The text of an error that is the file's fault is written for the person who sent it: it is what an HTTP 400 shows.

use std::io;

/// The remedy every unreadable file is answered with.
const REMEDY: &str = "Please ensure the file is a valid audio format (MP3, WAV, FLAC, OGG, M4A).";

/// Why a file could not be probed, decoded or prepared.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// The audio is shorter than the limit.
    #[error("Audio too short: {seconds:.3} s; the minimum is {minimum} s.")]
    TooShort {
        /// Length of the audio in seconds.
        seconds: f64,
        /// The limit in seconds.
        minimum: f64,
    },
    /// The audio is longer than the limit. Reading stops as soon as that is known, so the length is a lower bound.
    #[error(
        "Audio too long: at least {seconds:.0} s; the maximum is {maximum:.0} s ({hours:.1} h). Split the file and send the parts.",
        hours = maximum / 3600.0
    )]
    TooLong {
        /// A lower bound of the length in seconds.
        seconds: f64,
        /// The limit in seconds.
        maximum: f64,
    },
    /// The bytes are not audio, or are cut, damaged or untruthful. `reason` is a clause without a full stop.
    #[error("Unable to read audio file: {reason}. {REMEDY}")]
    Unreadable {
        /// What is wrong, for the person who sent the file.
        reason: String,
    },
    /// The format is known, but only an external ffmpeg reads it and none is installed.
    #[error(
        "Unable to read audio file: {format} needs ffmpeg, which is not installed on this server. \
         Convert the file to MP3, WAV, FLAC, OGG or M4A, or install ffmpeg."
    )]
    FfmpegMissing {
        /// The format or codec, in words.
        format: String,
    },
    /// The format is known, but neither the built-in decoders nor ffmpeg finished in the time allowed.
    #[error("Unable to read audio file: decoding took longer than {seconds} s. {REMEDY}")]
    TimedOut {
        /// The time allowed in seconds.
        seconds: u64,
    },
    /// The caller raised the cancel flag.
    #[error("cancelled")]
    Cancelled,
    /// Storage, disk or pipe failed: not the file's fault, so trying again may help.
    #[error("audio storage failed: {0}")]
    Io(#[from] io::Error),
}

impl AudioError {
    /// Builds [`AudioError::Unreadable`] from a clause without a full stop.
    pub fn unreadable(reason: impl Into<String>) -> Self {
        Self::Unreadable {
            reason: reason.into(),
        }
    }

    /// True if the file is at fault: an HTTP 400, and never worth a retry.
    pub fn is_client_error(&self) -> bool {
        match self {
            Self::TooShort { .. }
            | Self::TooLong { .. }
            | Self::Unreadable { .. }
            | Self::FfmpegMissing { .. }
            | Self::TimedOut { .. } => true,
            Self::Cancelled | Self::Io(_) => false,
        }
    }
}
