//! A stream of samples from any supported file.
//!
//! The file is known by its first bytes, never by its name. Uncompressed samples are read directly, compressed ones go
//! through symphonia and libopus; what Rust cannot decode goes to ffmpeg where one is installed.

mod pcm;
mod riff;

use crate::decode::pcm::PcmDecoder;
use crate::decode::riff::Wav;
use crate::facts::{MAX_CHANNELS, SAMPLE_RATES};
use crate::input::Failure;
use crate::{AudioError, AudioInput, AudioLimits};

/// A block of decoded audio.
#[derive(Debug, Clone, Copy)]
pub struct Frames<'a> {
    /// Interleaved samples, nominally in −1 … 1.
    pub samples: &'a [f32],
    /// Channels in `samples`; may change within a chained stream.
    pub channels: usize,
    /// Samples per second and channel; may change within a chained stream.
    pub sample_rate: u32,
}

/// Decodes one file from start to end.
pub struct Decoder {
    kind: Kind,
    failure: Failure,
    limits: AudioLimits,
    seconds: f64,
}

enum Kind {
    Pcm(PcmDecoder),
}

impl Decoder {
    /// Recognises the file, checks that it is whole, and gets ready to decode.
    ///
    /// # Errors
    /// [`AudioError::Unreadable`] with the reason if it is not audio or is cut, [`AudioError::Io`] if storage fails.
    pub fn open(mut input: AudioInput, limits: &AudioLimits) -> Result<Self, AudioError> {
        if input.is_empty() {
            return Err(AudioError::unreadable("the file is empty"));
        }
        let failure = input.failure();
        let mut head = [0; 16];
        input.read_at(0, &mut head)?;
        let layout = match (&head[0..4], &head[8..12]) {
            (b"RIFF" | b"RF64" | b"BW64", b"WAVE") => match riff::read(&mut input)? {
                Wav::Pcm(layout) => layout,
                Wav::Coded(tag) => {
                    return Err(AudioError::unreadable(format!(
                        "WAV codec {tag} is not supported"
                    )));
                }
            },
            _ => return Err(AudioError::unreadable("the file is not audio")),
        };
        check_plausible(usize::from(layout.channels), layout.sample_rate)?;
        Ok(Self {
            kind: Kind::Pcm(PcmDecoder::new(input, layout)),
            failure,
            limits: *limits,
            seconds: 0.0,
        })
    }

    /// The next block, or None at the end.
    ///
    /// # Errors
    /// [`AudioError::TooLong`] as soon as the limit is passed, [`AudioError::Unreadable`] if the data is damaged
    /// beyond what players tolerate, [`AudioError::Io`] if storage fails.
    pub fn next_frames(&mut self) -> Result<Option<Frames<'_>>, AudioError> {
        match &mut self.kind {
            Kind::Pcm(pcm) => {
                let (channels, sample_rate) =
                    (usize::from(pcm.layout.channels), pcm.layout.sample_rate);
                match pcm.next() {
                    Ok(Some(samples)) => {
                        let frames = samples.len() / channels;
                        self.seconds += frames as f64 / f64::from(sample_rate);
                        self.limits.check_longest(self.seconds)?;
                        Ok(Some(Frames {
                            samples,
                            channels,
                            sample_rate,
                        }))
                    }
                    Ok(None) => Ok(None),
                    Err(error) => Err(self.failure.take().unwrap_or(error)),
                }
            }
        }
    }

    /// Container name, such as `wav`.
    pub fn format(&self) -> &str {
        match &self.kind {
            Kind::Pcm(pcm) => pcm.layout.format,
        }
    }

    /// Codec name, such as `pcm_s16le`.
    pub fn codec(&self) -> String {
        match &self.kind {
            Kind::Pcm(pcm) => pcm.layout.encoding.name(),
        }
    }

    /// Channels of the file.
    pub fn channels(&self) -> usize {
        match &self.kind {
            Kind::Pcm(pcm) => usize::from(pcm.layout.channels),
        }
    }

    /// Samples per second and channel.
    pub fn sample_rate(&self) -> u32 {
        match &self.kind {
            Kind::Pcm(pcm) => pcm.layout.sample_rate,
        }
    }

    /// Bits per sample, for codecs that have such a thing.
    pub fn bit_depth(&self) -> Option<u16> {
        match &self.kind {
            Kind::Pcm(pcm) => Some(pcm.layout.bit_depth),
        }
    }

    /// Length in seconds where it is known without decoding; a guide for progress, not a fact.
    pub fn expected_duration(&self) -> Option<f64> {
        match &self.kind {
            Kind::Pcm(pcm) => Some(pcm.layout.frames() as f64 / f64::from(pcm.layout.sample_rate)),
        }
    }

    /// Seconds that were replaced by silence so far because they could not be decoded.
    pub fn damaged(&self) -> f64 {
        0.0
    }
}

/// Refuses numbers no real recording has.
fn check_plausible(channels: usize, sample_rate: u32) -> Result<(), AudioError> {
    if channels == 0 || channels > MAX_CHANNELS {
        return Err(AudioError::unreadable(format!(
            "its header claims {channels} channels; 1 to {MAX_CHANNELS} are possible"
        )));
    }
    if !SAMPLE_RATES.contains(&sample_rate) {
        return Err(AudioError::unreadable(format!(
            "its header claims a sample rate of {sample_rate} Hz"
        )));
    }
    Ok(())
}

/// The answer to a file that holds less than its header promises.
fn truncated(format: &str, promised: u64, present: u64) -> AudioError {
    AudioError::unreadable(format!(
        "the {format} file is truncated: its header promises {promised} bytes of audio, {present} are there"
    ))
}
