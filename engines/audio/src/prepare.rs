//! One pass from a user's file to what the engines read: 16 kHz mono s16 WAV, with its picture and its levels.

use std::io::{Seek, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::levels::LevelMeter;
use crate::peaks::PeakMeter;
use crate::{
    AudioError, AudioFacts, AudioInput, AudioLimits, Decoder, Frames, Levels, Peaks,
    PreparedWavWriter, Resampler, SAMPLE_RATE,
};

/// What becomes of several channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelMode {
    /// All channels averaged into one track.
    #[default]
    Mix,
    /// One track per channel.
    Split,
}

/// How to prepare a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrepareOptions {
    /// What becomes of several channels.
    pub channels: ChannelMode,
    /// Length limits. What a probe judged is not judged again: only clearly longer audio, or none at all, is refused.
    pub limits: AudioLimits,
    /// Highest number of waveform pairs per track.
    pub peaks: usize,
}

impl Default for PrepareOptions {
    /// Channels mixed, default limits, at most 2,000 waveform pairs.
    fn default() -> Self {
        Self {
            channels: ChannelMode::Mix,
            limits: AudioLimits::default(),
            peaks: 2_000,
        }
    }
}

/// What was prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// Facts about the file, its duration now counted sample by sample.
    pub facts: AudioFacts,
    /// One track, or one per channel in order.
    pub tracks: Vec<PreparedTrack>,
}

/// One prepared track.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreparedTrack {
    /// Number of samples at 16 kHz.
    pub samples: u64,
    /// The waveform's picture.
    pub peaks: Peaks,
    /// Loudness facts.
    pub levels: Levels,
}

impl PreparedTrack {
    /// Length in seconds.
    pub fn duration(&self) -> f64 {
        self.samples as f64 / f64::from(SAMPLE_RATE)
    }
}

/// Where the work stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrepareProgress {
    /// Seconds of audio done.
    pub done: f64,
    /// Seconds in all, where that is known beforehand.
    pub total: Option<f64>,
}

/// Decodes `input` and writes one WAV per track to what `create` returns for track 0, 1, ….
/// `progress` is called about once per second of audio; raising `cancel` ends the work within a block.
///
/// Samples of a 16 kHz s16 source are passed on bit for bit where the track is one of its channels.
///
/// # Errors
/// As [`crate::probe()`], [`AudioError::Cancelled`], and whatever `create` returns.
pub fn prepare<W: Write + Seek>(
    input: AudioInput,
    options: &PrepareOptions,
    create: &mut dyn FnMut(usize) -> Result<W, AudioError>,
    progress: &mut dyn FnMut(PrepareProgress),
    cancel: &AtomicBool,
) -> Result<Prepared, AudioError> {
    // What the probe let in by a hair is not refused for the frame or two by which decoding it differs.
    let limits = AudioLimits {
        max_duration: options.limits.max_duration * 1.001 + 1.0,
        ..options.limits
    };
    let mut decoder = Decoder::open(input, &limits)?;
    let total = decoder.expected_duration();
    let count = match options.channels {
        ChannelMode::Mix => 1,
        ChannelMode::Split => decoder.channels(),
    };
    let mut tracks = Vec::with_capacity(count);
    for index in 0..count {
        tracks.push(Track::new(
            create(index)?,
            decoder.sample_rate(),
            options.peaks,
        )?);
    }
    let mut reported = 0.0;
    let mut mono = Vec::new();
    while let Some(frames) = decoder.next_frames()? {
        if cancel.load(Ordering::Relaxed) {
            return Err(AudioError::Cancelled);
        }
        for (index, track) in tracks.iter_mut().enumerate() {
            match options.channels {
                ChannelMode::Mix => mix(frames, &mut mono),
                ChannelMode::Split => pick(frames, index, &mut mono),
            }
            track.push(&mono, frames.sample_rate)?;
        }
        let done = decoder.seconds();
        if done >= reported + 1.0 {
            reported = done;
            progress(PrepareProgress { done, total });
        }
    }
    let done = decoder.seconds();
    if done == 0.0 {
        options.limits.check(done)?;
    }
    let tracks = tracks
        .into_iter()
        .map(Track::finish)
        .collect::<Result<_, _>>()?;
    progress(PrepareProgress {
        done,
        total: Some(done),
    });
    Ok(Prepared {
        facts: decoder.facts(),
        tracks,
    })
}

/// Averages the channels.
fn mix(frames: Frames<'_>, mono: &mut Vec<f32>) {
    mono.clear();
    if frames.channels == 1 {
        mono.extend_from_slice(frames.samples);
        return;
    }
    let scale = 1.0 / frames.channels as f32;
    let frames = frames.samples.chunks_exact(frames.channels);
    mono.extend(frames.map(|frame| frame.iter().sum::<f32>() * scale));
}

/// Picks one channel; a stream that has fewer channels for a while repeats its last one.
fn pick(frames: Frames<'_>, channel: usize, mono: &mut Vec<f32>) {
    mono.clear();
    let channel = channel.min(frames.channels - 1);
    mono.extend(frames.samples.iter().skip(channel).step_by(frames.channels));
}

/// A track being written.
struct Track<W: Write + Seek> {
    resampler: Resampler,
    out: TrackOut<W>,
}

impl<W: Write + Seek> Track<W> {
    fn new(out: W, rate: u32, peaks: usize) -> Result<Self, AudioError> {
        Ok(Self {
            resampler: Resampler::new(rate)?,
            out: TrackOut {
                wav: PreparedWavWriter::new(out)?,
                peaks: PeakMeter::new(peaks),
                levels: LevelMeter::default(),
                rounded: Vec::new(),
            },
        })
    }

    fn push(&mut self, mono: &[f32], rate: u32) -> Result<(), AudioError> {
        if rate != self.resampler.rate() {
            let finished = std::mem::replace(&mut self.resampler, Resampler::new(rate)?);
            finished.finish(&mut |samples| self.out.write(samples))?;
        }
        self.resampler
            .push(mono, &mut |samples| self.out.write(samples))
    }

    fn finish(mut self) -> Result<PreparedTrack, AudioError> {
        self.resampler
            .finish(&mut |samples| self.out.write(samples))?;
        let samples = self.out.wav.samples();
        self.out.wav.finish()?;
        Ok(PreparedTrack {
            samples,
            peaks: self.out.peaks.finish(),
            levels: self.out.levels.finish(),
        })
    }
}

/// Everything 16 kHz samples go to.
struct TrackOut<W: Write + Seek> {
    wav: PreparedWavWriter<W>,
    peaks: PeakMeter,
    levels: LevelMeter,
    rounded: Vec<i16>,
}

impl<W: Write + Seek> TrackOut<W> {
    fn write(&mut self, samples: &[f32]) -> Result<(), AudioError> {
        self.peaks.push(samples);
        self.levels.push(samples);
        self.rounded.clear();
        let round = |sample: &f32| (sample * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i16;
        self.rounded.extend(samples.iter().map(round));
        self.wav.write(&self.rounded)
    }
}
