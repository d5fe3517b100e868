//! Where windows and frames lie. Windows of one length start at every step; each has the same number of frames, centred
//! on their receptive fields. The frames of a whole file lie on one grid, onto which windows are rounded.

use crate::audio_source::SAMPLE_RATE;

/// Sizes in samples of 16 kHz.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowGrid {
    /// Length of a window.
    pub window: usize,
    /// From the start of a window to the start of the next.
    pub step: usize,
    /// Frames of a window.
    pub n_frames: usize,
    /// What a frame sees.
    pub field: usize,
    /// From a frame to the next.
    pub shift: usize,
}

impl WindowGrid {
    /// Windows of a file. The last one may reach past its end; no audio has no window.
    pub fn n_windows(&self, n_samples: u64) -> usize {
        if n_samples == 0 {
            return 0;
        }
        let beyond = n_samples.saturating_sub(self.window as u64);
        usize::try_from(beyond.div_ceil(self.step as u64)).map_or(usize::MAX, |steps| steps + 1)
    }

    /// First sample of a window.
    pub fn start(&self, window: usize) -> u64 {
        window as u64 * self.step as u64
    }

    /// The file's frame on which the first frame of a window lies.
    pub fn first_frame(&self, window: usize) -> usize {
        (window as f64 * self.step as f64 / self.shift as f64).round_ties_even() as usize
    }

    /// Frames of a file of so many windows.
    pub fn total_frames(&self, n_windows: usize) -> usize {
        let samples = self.window + n_windows.saturating_sub(1) * self.step;
        (samples as f64 / self.shift as f64).round_ties_even() as usize + 1
    }

    /// The middle of a frame of the file, seconds.
    pub fn middle(&self, frame: usize) -> f64 {
        (frame as f64 * self.shift as f64 + self.field as f64 / 2.0) / f64::from(SAMPLE_RATE)
    }

    /// Length of a frame's share of time, seconds.
    pub fn frame_seconds(&self) -> f64 {
        self.shift as f64 / f64::from(SAMPLE_RATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: WindowGrid = WindowGrid {
        window: 160_000,
        step: 16_000,
        n_frames: 589,
        field: 991,
        shift: 270,
    };

    #[test]
    fn a_window_more_covers_what_is_left_of_a_file() {
        for (n_samples, windows) in [
            (0, 0),
            (1, 1),
            (160_000, 1),
            (160_001, 2),
            (176_000, 2),
            (1_208_832, 67),
        ] {
            assert_eq!(GRID.n_windows(n_samples), windows, "{n_samples} samples");
        }
    }

    #[test]
    fn frames_lie_where_the_reference_has_them() {
        assert_eq!(GRID.total_frames(67), 4505);
        assert_eq!(GRID.total_frames(106), 6816);
        assert_eq!(GRID.first_frame(1), 59);
        assert!((GRID.middle(0) - 0.030_968_75).abs() < 1e-12);
    }
}
