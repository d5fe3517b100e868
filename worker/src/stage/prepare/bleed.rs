//! Where one channel's microphone picked up another's speaker: for a while the quieter channel holds the louder one's
//! signal, delayed by the way through the room, and little else. Words cannot tell: two people say "yes" together.

use dalston_engines::{AudioSource, CancelFlag, EngineError, Result};
use dalston_schema::task::Bleed;

use crate::coverage::{Interval, union};

/// Sound is compared up to 2 kHz, which walls and microphones leave alike: one sample out of so many of 16 kHz.
const DECIMATION: usize = 4;
const RATE: f64 = 4_000.0;
/// Length of a window, and from one to the next, in samples: half and a quarter of a second.
const WINDOW: usize = 2_000;
const HOP: usize = 1_000;
/// How much later or earlier the same sound may come: 20 ms, seven metres.
const REACH: usize = 80;
/// Takes out the fall of speech towards high frequencies, so that the hum of two voices is not taken for one.
const PRE_EMPHASIS: f32 = 0.9;
/// Correlation from which a window counts as the other channel's sound. Two voices reach 0.38, a voice that comes through a
/// room with a second's half of reverberation 0.4 to 0.8.
const SAME_SOUND: f64 = 0.4;
/// Picked-up speech is at least this much quieter: 6 dB of energy.
const QUIETER: f64 = 0.25;
/// Mean energy below which a window is silent: −80 dBFS.
const SILENT: f64 = 1e-8;

/// What `quiet` holds of `loud`, the file of channel `from`. Blocks; memory does not grow with the length.
///
/// # Errors
/// When a file cannot be read, and [`EngineError::Cancelled`].
pub fn find(
    quiet: &dyn AudioSource,
    loud: &dyn AudioSource,
    from: u16,
    cancel: &CancelFlag,
) -> Result<Option<Bleed>> {
    let length = quiet.n_samples().min(loud.n_samples()) / DECIMATION as u64;
    let mut found: Vec<Interval> = Vec::new();
    let mut start = 0;
    while start < length {
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let heard = read(quiet, start as i64, WINDOW)?;
        let energy = energy(&heard);
        if energy > SILENT * WINDOW as f64 {
            let said = read(loud, start as i64 - REACH as i64, WINDOW + 2 * REACH)?;
            if is_echo(&heard, energy, &said) {
                found.push((start as f64 / RATE, (start + WINDOW as u64) as f64 / RATE));
            }
        }
        start += HOP as u64;
    }
    let regions = union(found);
    Ok((!regions.is_empty()).then_some(Bleed { from, regions }))
}

/// Whether a window is a quieter copy of what `said` holds at some delay.
fn is_echo(heard: &[f32], energy_heard: f64, said: &[f32]) -> bool {
    let mut energy_said = energy(&said[..WINDOW]);
    for delay in 0..=2 * REACH {
        let window = &said[delay..delay + WINDOW];
        if energy_heard < QUIETER * energy_said {
            let product: f32 = heard.iter().zip(window).map(|(a, b)| a * b).sum();
            if f64::from(product).abs() >= SAME_SOUND * (energy_heard * energy_said).sqrt() {
                return true;
            }
        }
        if let Some(next) = said.get(delay + WINDOW) {
            energy_said += f64::from(next * next) - f64::from(window[0] * window[0]);
        }
    }
    false
}

fn energy(samples: &[f32]) -> f64 {
    samples.iter().map(|x| f64::from(x * x)).sum()
}

/// Samples at a quarter of the rate with their low frequencies weakened; what lies outside the file is silent.
fn read(source: &dyn AudioSource, start: i64, length: usize) -> Result<Vec<f32>> {
    // One sample more in front, for the difference.
    let first = (start - 1) * DECIMATION as i64;
    let mut samples = vec![0.0; (length + 1) * DECIMATION];
    let before = usize::try_from(-first).unwrap_or(0).min(samples.len());
    source.read(first.max(0).unsigned_abs(), &mut samples[before..])?;
    let coarse: Vec<f32> = samples
        .chunks_exact(DECIMATION)
        .map(|chunk| chunk.iter().sum::<f32>() / DECIMATION as f32)
        .collect();
    Ok(coarse
        .windows(2)
        .map(|pair| pair[1] - PRE_EMPHASIS * pair[0])
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::path::Path;

    use dalston_engines::WavSource;

    use super::*;

    /// An utterance of the bundled test audio.
    fn utterance(name: &str) -> Vec<f32> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../tests/audio/utterances/{name}.wav"));
        let source = WavSource::open(&path).unwrap();
        let mut samples = vec![0.0; usize::try_from(source.n_samples()).unwrap()];
        source.read(0, &mut samples).unwrap();
        samples
    }

    /// What a microphone hears of a voice 3 ms away, with an echo.
    fn through_a_room(voice: &[f32]) -> Vec<f32> {
        let at = |index: usize, delay: usize| index.checked_sub(delay).map_or(0.0, |at| voice[at]);
        (0..voice.len())
            .map(|index| 0.1 * at(index, 48) - 0.04 * at(index, 400) + 0.03 * at(index, 900))
            .collect()
    }

    fn bled(quiet: &dyn AudioSource, loud: &dyn AudioSource, from: u16) -> Option<Bleed> {
        find(quiet, loud, from, &CancelFlag::new()).unwrap()
    }

    #[test]
    fn a_voice_through_a_room_is_found_and_another_voice_is_not() {
        let (ann, bob) = (utterance("test-00017"), utterance("test-00000"));
        let found = bled(&through_a_room(&ann), &ann, 3).unwrap();
        let seconds: f64 = found.regions.iter().map(|(start, end)| end - start).sum();
        assert_eq!(found.from, 3);
        assert!(seconds > 0.8 * ann.duration(), "{:?}", found.regions);

        let faint: Vec<f32> = bob.iter().map(|sample| 0.1 * sample).collect();
        assert_eq!(bled(&faint, &ann, 0), None);
        // The louder channel has not picked up the quieter one.
        assert_eq!(bled(&ann, &through_a_room(&ann), 1), None);
    }

    #[test]
    fn own_words_over_what_bled_are_not_taken_for_it() {
        // His recording is faint; he speaks into his own microphone.
        let (ann, bob) = (utterance("test-00017"), utterance("test-00000"));
        let both: Vec<f32> = through_a_room(&ann)
            .iter()
            .zip(bob.iter().chain(std::iter::repeat(&0.0)))
            .map(|(heard, own)| heard + 8.0 * own)
            .collect();
        let bob_ends = bob.duration();
        let found = bled(&both, &ann, 0);
        let early = found.iter().flat_map(|found| &found.regions);
        let early: f64 = early
            .map(|&(start, end)| (end.min(bob_ends) - start).max(0.0))
            .sum();
        assert!(early < 0.4 * bob_ends, "{found:?}");
    }
}
