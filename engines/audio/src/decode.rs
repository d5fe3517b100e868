//! A stream of samples from any supported file.
//!
//! The file is known by its first bytes, never by its name. Uncompressed samples are read directly, compressed ones go
//! through symphonia and libopus; what Rust cannot decode goes to ffmpeg where one is installed.

mod aiff;
mod container;
mod external;
mod headers;
mod mp4;
mod opus;
mod packets;
mod pcm;
mod riff;
mod sniff;

use crate::decode::external::ExternalDecoder;
use crate::decode::packets::Opened;
pub(crate) use crate::decode::packets::{AudioPacket, Decoded, PacketDecoder};
use crate::decode::pcm::PcmDecoder;
use crate::decode::riff::Wav;
use crate::decode::sniff::Container;
use crate::facts::{MAX_CHANNELS, SAMPLE_RATES};
use crate::input::Failure;
use crate::{AudioError, AudioFacts, AudioInput, AudioLimits};

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
    format: String,
    failure: Failure,
    limits: AudioLimits,
    clock: Clock,
}

/// Seconds counted in whole frames, so that they do not drift.
#[derive(Debug, Default, Clone, Copy)]
struct Clock {
    before: f64,
    rate: u32,
    frames: u64,
}

impl Clock {
    fn add(&mut self, block: Frames<'_>) {
        if block.sample_rate != self.rate {
            *self = Self {
                before: self.seconds(),
                rate: block.sample_rate,
                frames: 0,
            };
        }
        self.frames += (block.samples.len() / block.channels) as u64;
    }

    fn seconds(self) -> f64 {
        self.before + self.frames as f64 / f64::from(self.rate.max(1))
    }
}

pub(crate) enum Kind {
    Pcm(PcmDecoder),
    Packets(Box<PacketDecoder>),
    External(Box<ExternalDecoder>),
}

impl Decoder {
    /// Recognises the file, checks that it is whole, and gets ready to decode.
    ///
    /// # Errors
    /// [`AudioError::Unreadable`] with the reason if it is not audio or is cut, [`AudioError::FfmpegMissing`] if only ffmpeg
    /// could read it, [`AudioError::Io`] if storage fails.
    pub fn open(input: AudioInput, limits: &AudioLimits) -> Result<Self, AudioError> {
        let failure = input.failure();
        // What went wrong in storage is told before what it made of the file.
        let (kind, format) =
            open(input, limits).map_err(|error| failure.take().unwrap_or(error))?;
        Ok(Self {
            kind,
            format,
            failure,
            limits: *limits,
            clock: Clock::default(),
        })
    }

    /// The next block, or None at the end.
    ///
    /// # Errors
    /// [`AudioError::TooLong`] as soon as the limit is passed, [`AudioError::Unreadable`] if the data is damaged
    /// beyond what players tolerate, [`AudioError::Io`] if storage fails.
    pub fn next_frames(&mut self) -> Result<Option<Frames<'_>>, AudioError> {
        let block = match &mut self.kind {
            Kind::Pcm(pcm) => {
                let (channels, sample_rate) =
                    (usize::from(pcm.layout.channels), pcm.layout.sample_rate);
                let block = pcm.next();
                block.map(|block| {
                    block.map(|samples| Frames {
                        samples,
                        channels,
                        sample_rate,
                    })
                })
            }
            Kind::Packets(packets) => packets.next_block(),
            Kind::External(external) => {
                let (channels, sample_rate) = (external.channels, external.sample_rate);
                let block = external.next();
                block.map(|block| {
                    block.map(|samples| Frames {
                        samples,
                        channels,
                        sample_rate,
                    })
                })
            }
        };
        let block = block.map_err(|error| self.failure.take().unwrap_or(error))?;
        if let Some(frames) = block {
            self.clock.add(frames);
            self.limits.check_longest(self.clock.seconds())?;
        }
        Ok(block)
    }

    /// Facts about the file; `duration` is that of what has been decoded so far.
    pub fn facts(&self) -> AudioFacts {
        let (codec, channels, sample_rate, bit_depth, damaged) = match &self.kind {
            Kind::Pcm(pcm) => {
                let layout = &pcm.layout;
                (
                    layout.encoding.name(),
                    usize::from(layout.channels),
                    layout.sample_rate,
                    Some(layout.bit_depth),
                    0.0,
                )
            }
            Kind::Packets(packets) => {
                let info = &packets.info;
                let damaged = packets.damaged_frames as f64 / f64::from(info.sample_rate);
                (
                    info.codec.clone(),
                    info.channels,
                    info.sample_rate,
                    info.bit_depth,
                    damaged,
                )
            }
            Kind::External(external) => (
                external.codec.clone(),
                external.channels,
                external.sample_rate,
                None,
                0.0,
            ),
        };
        AudioFacts {
            format: self.format.clone(),
            codec,
            duration: self.clock.seconds(),
            channels: channels as u16,
            sample_rate,
            bit_depth,
            damaged,
        }
    }

    /// Seconds decoded so far.
    pub fn seconds(&self) -> f64 {
        self.clock.seconds()
    }

    /// Channels of the file, 1 … 64.
    pub fn channels(&self) -> usize {
        usize::from(self.facts().channels)
    }

    /// Samples per second and channel.
    pub fn sample_rate(&self) -> u32 {
        self.facts().sample_rate
    }

    /// Length in seconds where it is known without decoding; a guide for progress, not a fact.
    pub fn expected_duration(&self) -> Option<f64> {
        match &self.kind {
            Kind::Pcm(pcm) => Some(pcm.layout.frames() as f64 / f64::from(pcm.layout.sample_rate)),
            Kind::Packets(packets) => {
                let info = &packets.info;
                let frames = info.played.or(info.promised).or(info.expected)?;
                Some(frames as f64 / f64::from(info.sample_rate))
            }
            Kind::External(_) => None,
        }
    }

    /// What decodes, for the probe.
    pub(crate) fn kind(&mut self) -> &mut Kind {
        &mut self.kind
    }
}

fn open(mut input: AudioInput, limits: &AudioLimits) -> Result<(Kind, String), AudioError> {
    if input.is_empty() {
        return Err(AudioError::unreadable("the file is empty"));
    }
    let external = |input, demuxer: &'static str, words: &str| {
        let decoder = ExternalDecoder::open(input, demuxer, words, limits)?;
        Ok((Kind::External(Box::new(decoder)), demuxer.to_owned()))
    };
    let container = sniff::sniff(&mut input)?;
    let layout = match container {
        Container::Wav => match riff::read(&mut input)? {
            Wav::Pcm(layout) => Some(layout),
            // Microsoft's and IMA's ADPCM are decoded here, the telephone codecs elsewhere.
            Wav::Coded(2 | 0x11) => None,
            Wav::Coded(tag) => return external(input, "wav", &format!("WAV codec {tag:#x}")),
        },
        Container::Aiff => match aiff::read_aiff(&mut input)? {
            Some(layout) => Some(layout),
            None => return external(input, "aiff", "a compressed AIFF"),
        },
        Container::Au => match aiff::read_au(&mut input)? {
            Some(layout) => Some(layout),
            None => return external(input, "au", "a compressed AU"),
        },
        Container::External(demuxer, words) => return external(input, demuxer, words),
        _ => None,
    };
    if let Some(layout) = layout {
        check_plausible(usize::from(layout.channels), layout.sample_rate)?;
        let format = layout.format.to_owned();
        return Ok((Kind::Pcm(PcmDecoder::new(input, layout)), format));
    }
    match PacketDecoder::open(input, container)? {
        Opened::Decoder(decoder) => {
            let format = decoder.info.format.to_owned();
            Ok((Kind::Packets(decoder), format))
        }
        Opened::External(input, demuxer, words) => external(input, demuxer, &words),
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
