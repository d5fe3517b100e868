//! The bundled speech, and recordings made of it.

use std::path::{Path, PathBuf};

use crate::product::repository;

/// Sample rate of the bundled speech.
pub const SAMPLE_RATE: u32 = 16_000;

/// One of the short sentences.
pub fn utterance(name: &str) -> PathBuf {
    repository().join(format!("tests/audio/utterances/{name}.wav"))
}

/// One of the conversations.
pub fn dialogue(name: &str) -> PathBuf {
    repository().join(format!("tests/audio/dialogues/{name}.wav"))
}

/// The samples of a recording.
pub fn samples(path: &Path) -> Vec<f32> {
    hound::WavReader::open(path)
        .unwrap()
        .into_samples::<i16>()
        .map(|sample| f32::from(sample.unwrap()) / 32_768.0)
        .collect()
}

/// Writes a recording; the samples of several channels take turns.
pub fn write(path: &Path, channels: u16, samples: impl IntoIterator<Item = f32>) {
    let spec = hound::WavSpec {
        channels,
        sample_rate: SAMPLE_RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(path, spec).unwrap();
    for sample in samples {
        wav.write_sample((sample.clamp(-1.0, 1.0) * 32_767.0) as i16)
            .unwrap();
    }
    wav.finalize().unwrap();
}

/// Two recordings on a channel each, the second later, and on the second channel the first once more, much quieter: what
/// a microphone picks up of another's loudspeaker.
pub fn write_call(path: &Path, first: &Path, second: &Path, later_seconds: f64) {
    let (first, second) = (samples(first), samples(second));
    let later = (later_seconds * f64::from(SAMPLE_RATE)) as usize;
    let length = first.len().max(later + second.len());
    let both = (0..length).flat_map(|at| {
        let own = first.get(at).copied().unwrap_or(0.0);
        let other = at
            .checked_sub(later)
            .and_then(|at| second.get(at))
            .copied()
            .unwrap_or(0.0);
        [own, other + 0.1 * own]
    });
    write(path, 2, both);
}
