//! A waveform picture of any length in constant memory: when the bins are full, neighbours merge and each bin covers
//! twice as much.

use serde::{Deserialize, Serialize};

use crate::SAMPLE_RATE;

/// Samples of a bin to start with: 10 ms at 16 kHz.
const FIRST_BIN: u64 = 160;

/// Lowest and highest sample of equal stretches of audio.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peaks {
    /// Seconds a pair covers; the last pair may cover less.
    pub seconds_per_pair: f64,
    /// `(lowest, highest)` in hundredths of full scale, −100 … 100, in order of time.
    pub pairs: Vec<(i8, i8)>,
}

/// Collects [`Peaks`] from samples as they pass.
#[derive(Debug)]
pub(crate) struct PeakMeter {
    limit: usize,
    bin_samples: u64,
    bins: Vec<(f32, f32)>,
    open: (f32, f32),
    open_samples: u64,
}

impl PeakMeter {
    /// Makes at most `limit` pairs, rounded up to an even number of at least 2.
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(2).next_multiple_of(2);
        Self {
            limit,
            bin_samples: FIRST_BIN,
            bins: Vec::with_capacity(limit),
            open: EMPTY,
            open_samples: 0,
        }
    }

    /// Takes the next samples.
    pub fn push(&mut self, samples: &[f32]) {
        for &sample in samples {
            self.open = (self.open.0.min(sample), self.open.1.max(sample));
            self.open_samples += 1;
            if self.open_samples == self.bin_samples {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        // A full picture is halved before the next bin goes in, so that the limit holds after the last bin too.
        if self.bins.len() == self.limit {
            let merged = self.bins.chunks(2).map(|pair| {
                pair.iter()
                    .fold(EMPTY, |sum, bin| (sum.0.min(bin.0), sum.1.max(bin.1)))
            });
            self.bins = merged.collect();
            self.bin_samples *= 2;
            // The open bin is half a new one: it stays open.
            if self.open_samples < self.bin_samples {
                return;
            }
        }
        self.bins.push(self.open);
        self.open = EMPTY;
        self.open_samples = 0;
    }

    /// The picture of everything pushed.
    pub fn finish(mut self) -> Peaks {
        if self.open_samples > 0 {
            if self.bins.len() == self.limit {
                self.close();
            }
            if self.open_samples > 0 {
                self.bins.push(self.open);
            }
        }
        let hundredths = |value: f32| (value.clamp(-1.0, 1.0) * 100.0).round() as i8;
        Peaks {
            seconds_per_pair: self.bin_samples as f64 / f64::from(SAMPLE_RATE),
            pairs: self
                .bins
                .iter()
                .map(|bin| (hundredths(bin.0), hundredths(bin.1)))
                .collect(),
        }
    }
}

/// A bin without samples.
const EMPTY: (f32, f32) = (f32::INFINITY, f32::NEG_INFINITY);
