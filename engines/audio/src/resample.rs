//! Resampling of one channel to 16 kHz, aligned so that output sample `i` is at `i / 16000` s exactly.
//!
//! The filter is rubato's FFT resampler: a windowed sinc (squared Blackman-Harris, 64 ms or longer) applied in the frequency
//! domain. Tones up to 7.5 kHz come out within −105 dB of the ideal, and tones from 8.4 kHz up leave less than −135 dB behind
//! (sweeps at all common rates, see `tests/prepare.rs`).

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};

use crate::{AudioError, SAMPLE_RATE};

/// Length of the filter in samples at 16 kHz, about; longer filters have a narrower transition band.
const FILTER: u32 = 1_024;

/// Resamples one channel, chunk after chunk.
pub struct Resampler {
    /// None where the rate is 16 kHz already: samples pass untouched.
    fft: Option<Fft<f32>>,
    rate: u32,
    pending: Vec<f32>,
    output: Vec<f32>,
    /// Output samples of the filter's delay still to be dropped.
    delay: usize,
    consumed: u64,
    produced: u64,
}

impl Resampler {
    /// Makes a resampler from `rate` Hz to 16 kHz.
    ///
    /// # Errors
    /// [`AudioError::Unreadable`] if the rate is zero.
    pub fn new(rate: u32) -> Result<Self, AudioError> {
        let mut delay = 0;
        let fft = if rate == SAMPLE_RATE {
            None
        } else {
            let step_out = SAMPLE_RATE / gcd(rate, SAMPLE_RATE);
            let step_in = rate / gcd(rate, SAMPLE_RATE);
            // An even number of steps keeps both halves of the filter whole, so that its delay is a whole output sample.
            let steps = FILTER.div_ceil(step_out).next_multiple_of(2);
            let fft = Fft::<f32>::new_custom(
                rate as usize,
                SAMPLE_RATE as usize,
                (steps * step_in) as usize,
                1,
                1,
                WindowFunction::BlackmanHarris2,
                FixedSync::Both,
            )
            .map_err(|_| {
                AudioError::unreadable(format!("a sample rate of {rate} Hz is impossible"))
            })?;
            delay = fft.output_delay();
            Some(fft)
        };
        Ok(Self {
            fft,
            rate,
            pending: Vec::new(),
            output: Vec::new(),
            delay,
            consumed: 0,
            produced: 0,
        })
    }

    /// The input rate in Hz.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Takes samples at the input rate and gives those at 16 kHz to `sink`, as far as they are known.
    ///
    /// # Errors
    /// Whatever `sink` returns.
    pub fn push(
        &mut self,
        samples: &[f32],
        sink: &mut dyn FnMut(&[f32]) -> Result<(), AudioError>,
    ) -> Result<(), AudioError> {
        self.consumed += samples.len() as u64;
        if self.fft.is_none() {
            self.produced += samples.len() as u64;
            return sink(samples);
        }
        self.pending.extend_from_slice(samples);
        self.run(sink)
    }

    /// Gives the last samples: in all, the input's duration rounded up to whole samples at 16 kHz.
    ///
    /// # Errors
    /// Whatever `sink` returns.
    pub fn finish(
        mut self,
        sink: &mut dyn FnMut(&[f32]) -> Result<(), AudioError>,
    ) -> Result<(), AudioError> {
        let Some(fft) = &self.fft else { return Ok(()) };
        let chunk = fft.input_frames_next();
        let total = (self.consumed * u64::from(SAMPLE_RATE)).div_ceil(u64::from(self.rate));
        while self.produced < total {
            self.pending
                .resize(self.pending.len().max(1).next_multiple_of(chunk), 0.0);
            let left = usize::try_from(total - self.produced).unwrap_or(usize::MAX);
            let before = self.produced;
            self.run(&mut |samples| sink(&samples[..samples.len().min(left)]))?;
            self.produced = self.produced.max(before);
        }
        Ok(())
    }

    fn run(
        &mut self,
        sink: &mut dyn FnMut(&[f32]) -> Result<(), AudioError>,
    ) -> Result<(), AudioError> {
        let Some(fft) = &mut self.fft else {
            return Ok(());
        };
        let chunk = fft.input_frames_next();
        let mut used = 0;
        while self.pending.len() - used >= chunk {
            let made = fft.output_frames_next();
            self.output.resize(made, 0.0);
            let input = InterleavedSlice::new(&self.pending[used..used + chunk], 1, chunk);
            let output = InterleavedSlice::new_mut(&mut self.output[..], 1, made);
            let (Ok(input), Ok(mut output)) = (input, output) else {
                return Err(AudioError::Io(std::io::Error::other(
                    "resampler buffers disagree",
                )));
            };
            fft.process_into_buffer(&input, &mut output, None)
                .map_err(|error| AudioError::Io(std::io::Error::other(error)))?;
            used += chunk;
            let dropped = self.delay.min(made);
            self.delay -= dropped;
            self.produced += (made - dropped) as u64;
            if made > dropped {
                sink(&self.output[dropped..])?;
            }
        }
        self.pending.drain(..used);
        Ok(())
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
