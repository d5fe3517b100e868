//! The signal all fixtures carry, and the tools that compare what came back with it.

use std::f64::consts::TAU;
use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use dalston_audio::{
    AudioError, AudioInput, ChannelMode, PrepareOptions, Prepared, PreparedWav, prepare,
};

/// What a channel of a fixture carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A sweep from 200 to 2600 Hz whose loudness swells three times a second.
    Left,
    /// Bursts of 700 Hz, four a second.
    Right,
    /// Both, averaged.
    Mixed,
    /// Nothing.
    Silent,
}

/// The reference signal of `length` samples at 16 kHz.
pub fn reference(channel: Channel, length: usize) -> Vec<f32> {
    (0..length)
        .map(|index| {
            let t = index as f64 / 16_000.0;
            let left = 0.5
                * (TAU * (200.0 * t + 2_000.0 * t * t / 2.0)).sin()
                * (0.6 + 0.4 * (TAU * 3.0 * t).sin());
            let right =
                0.4 * (TAU * 700.0 * t).sin() * if (t * 4.0).fract() < 0.5 { 1.0 } else { 0.1 };
            match channel {
                _ if t >= 1.2 => 0.0,
                Channel::Left => left as f32,
                Channel::Right => right as f32,
                Channel::Mixed => ((left + right) / 2.0) as f32,
                Channel::Silent => 0.0,
            }
        })
        .collect()
}

/// How many samples `found` is late against `expected`, searched up to `reach`, and the correlation there.
pub fn best_match(expected: &[f32], found: &[f32], reach: usize) -> (i64, f64) {
    let reach = reach as i64;
    (-reach..=reach)
        .map(|lag| {
            let expected = &expected[(-lag).max(0) as usize..];
            let found = &found[lag.max(0) as usize..];
            let mut sums = (0.0, 1e-12, 1e-12);
            for (a, b) in expected.iter().zip(found) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                sums = (sums.0 + a * b, sums.1 + a * a, sums.2 + b * b);
            }
            (lag, sums.0 / (sums.1 * sums.2).sqrt())
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap()
}

/// Where a fixture is.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// A fixture as a local file.
pub fn fixture(name: &str) -> AudioInput {
    AudioInput::open(&path(name)).unwrap()
}

/// Prepares an input into memory; gives each track's samples.
pub fn prepared(
    input: AudioInput,
    channels: ChannelMode,
) -> Result<(Prepared, Vec<Vec<f32>>), AudioError> {
    let options = PrepareOptions {
        channels,
        ..PrepareOptions::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = |track: usize| folder.path().join(format!("{track}.wav"));
    let done = prepare(
        input,
        &options,
        &mut |track| Ok(File::create(file(track))?),
        &mut |_| {},
        &AtomicBool::new(false),
    )?;
    let tracks = (0..done.tracks.len()).map(|track| {
        let mut wav = PreparedWav::open(&file(track)).unwrap();
        assert_eq!(wav.len(), done.tracks[track].samples);
        let mut samples = vec![0.0; wav.len() as usize];
        assert_eq!(wav.read(0, &mut samples).unwrap(), samples.len());
        samples
    });
    let tracks = tracks.collect();
    Ok((done, tracks))
}

/// An input over bytes in memory.
pub fn in_memory(bytes: Vec<u8>) -> AudioInput {
    AudioInput::new(Cursor::new(bytes)).unwrap()
}

/// Whether the crate will find an ffmpeg.
pub fn ffmpeg_is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("ffmpeg").is_file())
}
