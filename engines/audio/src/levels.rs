//! Level facts of prepared audio: how loud, how clipped, how silent. Computed sample by sample in constant memory.

use serde::{Deserialize, Serialize};

/// Samples of one silence frame: 20 ms at 16 kHz.
const FRAME: u64 = 320;
/// A frame below this power (−60 dBFS) counts as silence.
const SILENCE_POWER: f64 = 1e-6;
/// Full scale for the clipping test: the two outermost s16 steps.
const CLIP: f32 = 32_766.0 / 32_768.0;
/// What digital silence is reported as, in dBFS.
const FLOOR_DB: f64 = -120.0;

/// Loudness facts over a whole track.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Levels {
    /// Root mean square in dBFS, −120 for digital silence.
    pub rms_dbfs: f64,
    /// Highest magnitude in dBFS, −120 for digital silence.
    pub peak_dbfs: f64,
    /// Share of samples at full scale, 0 … 1.
    pub clipped: f64,
    /// Share of 20 ms frames below −60 dBFS, 0 … 1.
    pub silent: f64,
}

/// Collects [`Levels`] from samples as they pass.
#[derive(Debug, Default)]
pub(crate) struct LevelMeter {
    samples: u64,
    power: f64,
    peak: f32,
    clipped: u64,
    frame_samples: u64,
    frame_power: f64,
    frames: u64,
    silent_frames: u64,
}

impl LevelMeter {
    /// Takes the next samples.
    pub fn push(&mut self, samples: &[f32]) {
        for &sample in samples {
            let magnitude = sample.abs();
            self.peak = self.peak.max(magnitude);
            self.clipped += u64::from(magnitude >= CLIP);
            self.frame_power += f64::from(sample) * f64::from(sample);
            self.frame_samples += 1;
            if self.frame_samples == FRAME {
                self.end_frame();
            }
        }
        self.samples += samples.len() as u64;
    }

    /// Closes a frame, full or the last short one.
    fn end_frame(&mut self) {
        self.power += self.frame_power;
        self.frames += 1;
        if self.frame_power < SILENCE_POWER * self.frame_samples as f64 {
            self.silent_frames += 1;
        }
        self.frame_power = 0.0;
        self.frame_samples = 0;
    }

    /// The facts about everything pushed.
    pub fn finish(mut self) -> Levels {
        if self.frame_samples > 0 {
            self.end_frame();
        }
        let count = self.samples.max(1) as f64;
        Levels {
            rms_dbfs: decibels((self.power / count).sqrt()),
            peak_dbfs: decibels(f64::from(self.peak)),
            clipped: self.clipped as f64 / count,
            silent: self.silent_frames as f64 / self.frames.max(1) as f64,
        }
    }
}

/// Magnitude to dBFS with a floor.
fn decibels(magnitude: f64) -> f64 {
    (20.0 * magnitude.log10()).max(FLOOR_DB)
}
