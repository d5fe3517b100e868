//! What a file is: the facts a job records about its audio, and the limits it must keep.

use serde::{Deserialize, Serialize};

use crate::AudioError;

/// Highest channel count that is taken for real; above it a header is lying.
pub(crate) const MAX_CHANNELS: usize = 64;
/// Sample rates that are taken for real, in Hz.
pub(crate) const SAMPLE_RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Facts about an audio file, found by reading its data and not by trusting its header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AudioFacts {
    /// Container: `wav`, `flac`, `mp3`, `ogg`, `mp4`, `matroska`, `aiff`, `caf`, `au`, `adts`, or ffmpeg's name for others.
    pub format: String,
    /// Codec: `pcm_s16le`, `flac`, `mp3`, `vorbis`, `opus`, `aac`, `alac`, …
    pub codec: String,
    /// Length of the audio in seconds.
    pub duration: f64,
    /// Number of channels.
    pub channels: u16,
    /// Samples per second and channel in the file.
    pub sample_rate: u32,
    /// Bits per sample, for codecs that have such a thing.
    pub bit_depth: Option<u16>,
    /// Seconds that could not be decoded and count as silence; 0 for an intact file.
    pub damaged: f64,
}

/// How long audio may be, and how long an external decoder may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AudioLimits {
    /// Shortest audio accepted, in seconds.
    pub min_duration: f64,
    /// Longest audio accepted, in seconds. Reading stops as soon as it is passed.
    pub max_duration: f64,
    /// Wall time an external ffmpeg gets, in seconds.
    pub external_seconds: u64,
}

impl Default for AudioLimits {
    /// 0.1 s to 10 h; ten minutes for ffmpeg.
    fn default() -> Self {
        Self {
            min_duration: 0.1,
            max_duration: 36_000.0,
            external_seconds: 600,
        }
    }
}

impl AudioLimits {
    /// Refuses audio that is already longer than the limit after `seconds`.
    pub(crate) fn check_longest(&self, seconds: f64) -> Result<(), AudioError> {
        // Containers round to milliseconds and codecs to whole frames: a file of exactly the limit passes.
        if seconds > self.max_duration + 0.1 {
            return Err(AudioError::TooLong {
                seconds,
                maximum: self.max_duration,
            });
        }
        Ok(())
    }

    /// Refuses finished audio of `seconds` outside the limits.
    pub fn check(&self, seconds: f64) -> Result<(), AudioError> {
        self.check_longest(seconds)?;
        if seconds < self.min_duration {
            return Err(AudioError::TooShort {
                seconds,
                minimum: self.min_duration,
            });
        }
        Ok(())
    }
}
