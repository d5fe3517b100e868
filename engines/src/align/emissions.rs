//! Emissions of any stretch of a file, on one grid of frames counted from its first sample. They are computed window
//! by window as they are asked for and forgotten once passed, so that their memory does not grow with the file, and
//! a frame's time never depends on the window it was computed in.

use std::collections::VecDeque;
use std::ops::Range;

use super::network::Network;
use crate::audio_source::AudioSource;
use crate::error::Result;
use crate::session::RunGuard;

/// Longest stretch computed in one window, frames (20 s at 20 ms a frame): attention grows with its square.
const WINDOW: usize = 1_000;
/// Frames that a window hears on both sides of what it is computed for (1 s).
const CONTEXT: usize = 50;

/// Emissions, computed in order of time.
pub struct Emissions<'a> {
    network: &'a Network,
    audio: &'a dyn AudioSource,
    /// Frames of the whole file.
    n_frames: usize,
    /// Windows not yet computed: the frames each is for.
    pending: VecDeque<Range<usize>>,
    /// Windows computed and not yet asked for.
    ready: VecDeque<(Range<usize>, Vec<f32>)>,
    /// The frames held, and their rows.
    held: Range<usize>,
    rows: Vec<f32>,
}

impl<'a> Emissions<'a> {
    /// Emissions of some stretches of a file: frames, sorted, not overlapping, none empty.
    pub fn new(
        network: &'a Network,
        audio: &'a dyn AudioSource,
        stretches: &[Range<usize>],
    ) -> Self {
        Self {
            network,
            audio,
            n_frames: frames_of(network, audio),
            pending: stretches.iter().cloned().flat_map(windows).collect(),
            ready: VecDeque::new(),
            held: 0..0,
            rows: Vec::new(),
        }
    }

    /// Rows of the frames asked for, `[frames, columns]`. They lie in one stretch; a later call asks for no earlier
    /// first frame.
    ///
    /// # Errors
    /// Audio that cannot be read, a failing graph, a stopped guard.
    pub fn rows(&mut self, frames: Range<usize>, run: &RunGuard) -> Result<&[f32]> {
        let columns = self.network.columns();
        while self.held.end < frames.end {
            if self.ready.is_empty() {
                self.compute(run)?;
            }
            let Some((window, rows)) = self.ready.pop_front() else {
                break;
            };
            if window.start != self.held.end {
                self.held = window.start..window.start;
                self.rows.clear();
            }
            self.held.end = window.end;
            self.rows.extend(rows);
            self.forget_before(frames.start);
        }
        self.forget_before(frames.start);
        let first = frames.start - self.held.start;
        Ok(&self.rows[first * columns..(first + frames.len()) * columns])
    }

    fn forget_before(&mut self, frame: usize) {
        let first = frame.clamp(self.held.start, self.held.end);
        self.rows
            .drain(..(first - self.held.start) * self.network.columns());
        self.held.start = first;
    }

    /// Computes the next windows: as many as are equally long and fit into one call.
    fn compute(&mut self, run: &RunGuard) -> Result<()> {
        let mut batch: Vec<(Range<usize>, Range<usize>)> = Vec::new();
        let mut samples: Vec<Vec<f32>> = Vec::new();
        while let Some(window) = self.pending.front() {
            let heard =
                window.start.saturating_sub(CONTEXT)..(window.end + CONTEXT).min(self.n_frames);
            let alike = batch
                .first()
                .is_none_or(|(_, first)| first.len() == heard.len());
            if batch.len() == self.network.batch_size() || !alike {
                break;
            }
            let grid = self.network.grid();
            let mut waveform = vec![0.0; grid.samples(heard.len())];
            self.audio
                .read((heard.start * grid.stride) as u64, &mut waveform)?;
            samples.push(waveform);
            batch.push((window.clone(), heard));
            self.pending.pop_front();
        }
        if batch.is_empty() {
            return Ok(());
        }
        let columns = self.network.columns();
        let emissions = self.network.emissions(&mut samples, run)?;
        for ((window, heard), mut rows) in batch.into_iter().zip(emissions) {
            rows.truncate((window.end - heard.start) * columns);
            rows.drain(..(window.start - heard.start) * columns);
            self.ready.push_back((window, rows));
        }
        Ok(())
    }
}

/// Frames of a whole file, at least 1: shorter audio is followed by silence.
pub fn frames_of(network: &Network, audio: &dyn AudioSource) -> usize {
    network
        .grid()
        .frames(usize::try_from(audio.n_samples()).unwrap_or(usize::MAX / 2))
        .max(1)
}

/// Equal parts of a stretch, none longer than [`WINDOW`].
fn windows(stretch: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let count = stretch.len().div_ceil(WINDOW).max(1);
    let length = stretch.len().div_ceil(count);
    (0..count).map(move |i| {
        let start = stretch.start + i * length;
        start..(start + length).min(stretch.end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_cut_into_equal_windows_without_a_gap() {
        assert!(windows(7..1_007).eq(std::iter::once(7..1_007)));
        assert_eq!(
            windows(0..2_001).collect::<Vec<_>>(),
            [0..667, 667..1_334, 1_334..2_001]
        );
        for length in 1..5_000 {
            let parts: Vec<_> = windows(3..3 + length).collect();
            assert!(
                parts
                    .iter()
                    .all(|part| !part.is_empty() && part.len() <= WINDOW)
            );
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!(
                (parts[0].start, parts[parts.len() - 1].end),
                (3, 3 + length)
            );
        }
    }
}
