//! Audio in: opens what users have, says what it is, and turns it into 16 kHz mono samples.
//!
//! [`probe()`] judges an upload without decoding all of it, [`prepare()`] makes the WAV the engines read,
//! [`Decoder`] is the stream of samples under both, and [`PreparedWav`] reads the result at any position.
//! Memory is constant whatever the length. There are no models here, no SQL, no HTTP and no async runtime.

mod decode;
mod error;
mod facts;
mod input;
mod levels;
mod peaks;
mod prepare;
mod probe;
mod resample;
mod wav;

pub use decode::{Decoder, Frames};
pub use error::AudioError;
pub use facts::{AudioFacts, AudioLimits};
pub use input::{AudioInput, ByteSource};
pub use levels::Levels;
pub use peaks::Peaks;
pub use prepare::{ChannelMode, PrepareOptions, PrepareProgress, Prepared, PreparedTrack, prepare};
pub use probe::probe;
pub use resample::Resampler;
pub use wav::{PreparedWav, PreparedWavWriter};

/// Samples per second of prepared audio.
pub const SAMPLE_RATE: u32 = 16_000;
