//! Preparing: the resampler's accuracy, channels, the prepared file, its picture and its levels.

use std::f64::consts::TAU;
use std::io::Cursor;
use std::sync::atomic::AtomicBool;

use crate::signal::{in_memory, path, prepared};
use dalston_audio::{
    AudioError, AudioInput, ChannelMode, Peaks, PrepareOptions, Prepared, PreparedWav,
    PreparedWavWriter, Resampler, prepare,
};

/// Rates users have, from telephones to studios, and an odd one.
const RATES: [u32; 14] = [
    8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, ODD, 48_000, 88_200, 96_000,
    176_400, 192_000,
];

/// The odd one, whose filter is two seconds long and so feels the ends of the one-second tones.
const ODD: u32 = 47_999;

/// Resamples in uneven pieces, as decoders deliver.
fn resample(rate: u32, input: &[f32]) -> Vec<f32> {
    let mut output = Vec::new();
    let mut resampler = Resampler::new(rate).unwrap();
    let mut keep = |samples: &[f32]| {
        output.extend_from_slice(samples);
        Ok(())
    };
    let mut rest = input;
    for length in [1, 700, 4_099, 313].into_iter().cycle() {
        let (piece, left) = rest.split_at(length.min(rest.len()));
        resampler.push(piece, &mut keep).unwrap();
        rest = left;
        if rest.is_empty() {
            break;
        }
    }
    resampler.finish(&mut keep).unwrap();
    output
}

/// One second of a tone.
fn tone(rate: u32, frequency: f64) -> Vec<f32> {
    (0..rate)
        .map(|index| (0.5 * (TAU * frequency * f64::from(index) / f64::from(rate)).sin()) as f32)
        .collect()
}

fn decibels(ratio: f64) -> f64 {
    20.0 * ratio.max(1e-9).log10()
}

/// Root mean square away from the edges, where the tone was switched on and off.
fn middle_rms(samples: &[f32]) -> f64 {
    let middle = &samples[4_000..12_000];
    (middle
        .iter()
        .map(|sample| f64::from(*sample).powi(2))
        .sum::<f64>()
        / middle.len() as f64)
        .sqrt()
}

#[test]
fn tones_in_the_band_pass_unchanged_in_level_and_time_at_every_rate() {
    for rate in RATES {
        let top = 7_500_f64.min(f64::from(rate) * 0.47);
        for step in 0..12 {
            let frequency = 50.0 + (top - 50.0) * f64::from(step) / 11.0;
            let output = resample(rate, &tone(rate, frequency));
            assert_eq!(output.len(), 16_000, "{rate} Hz");
            // Against the ideal tone, sample by sample: level, delay and everything else at once.
            let expected = tone(16_000, frequency);
            let error: Vec<f32> = output.iter().zip(&expected).map(|(a, b)| a - b).collect();
            let error = decibels(middle_rms(&error) / middle_rms(&expected));
            assert!(
                error < if rate == ODD { -85.0 } else { -105.0 },
                "{rate} Hz, tone of {frequency:.0} Hz: error {error:.1} dB"
            );
        }
    }
}

#[test]
fn tones_above_the_band_leave_no_alias() {
    for rate in RATES.into_iter().filter(|rate| *rate > 16_000) {
        let half = f64::from(rate) / 2.0;
        for step in 0..12 {
            let frequency = 8_400.0 + (half - 8_500.0) * f64::from(step) / 11.0;
            let output = resample(rate, &tone(rate, frequency));
            let level = decibels(middle_rms(&output) / middle_rms(&tone(16_000, 1_000.0)));
            assert!(
                level < if rate == ODD { -85.0 } else { -135.0 },
                "{rate} Hz, tone of {frequency:.0} Hz: alias at {level:.1} dB"
            );
        }
    }
}

#[test]
fn an_impulse_stays_at_its_moment() {
    for rate in RATES {
        let second = rate as usize;
        let mut input = vec![0.0; 3 * second];
        // At exactly one second, a whole sample at every rate.
        input[second] = 1.0;
        let output = resample(rate, &input);
        let largest = (0..output.len())
            .max_by(|a, b| output[*a].abs().total_cmp(&output[*b].abs()))
            .unwrap();
        assert_eq!(largest, 16_000, "{rate} Hz");
        // The response is even around it: not even a fraction of a sample is lost.
        for distance in 1..40 {
            let (before, after) = (output[largest - distance], output[largest + distance]);
            assert!(
                (before - after).abs() < 1e-3 * output[largest].abs(),
                "{rate} Hz at ±{distance}: {before} and {after}"
            );
        }
    }
}

#[test]
fn output_is_as_long_as_the_input_to_the_sample() {
    for rate in RATES {
        for length in [0, 1, 2, 100, 1_023, 1_024, 12_345] {
            let output = resample(rate, &vec![0.25; length]);
            assert_eq!(
                output.len(),
                (length * 16_000).div_ceil(rate as usize),
                "{length} samples at {rate} Hz"
            );
        }
    }
}

/// A 16-bit WAV of interleaved samples.
fn wav(channels: u16, rate: u32, samples: &[i16]) -> Vec<u8> {
    let data = samples.len() as u32 * 2;
    let mut bytes = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0".to_vec();
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * u32::from(channels) * 2).to_le_bytes());
    bytes.extend((channels * 2).to_le_bytes());
    bytes.extend(b"\x10\0data");
    bytes.extend(data.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    bytes
}

/// Prepares into memory; gives the bytes of each track.
fn prepared_bytes(input: AudioInput, channels: ChannelMode) -> (Prepared, Vec<Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let options = PrepareOptions {
        channels,
        ..PrepareOptions::default()
    };
    let file = |track: usize| folder.path().join(track.to_string());
    let mut create = |track: usize| Ok(std::fs::File::create(file(track))?);
    let done = prepare(
        input,
        &options,
        &mut create,
        &mut |_| {},
        &AtomicBool::new(false),
    )
    .unwrap();
    let tracks = (0..done.tracks.len())
        .map(|track| std::fs::read(file(track)).unwrap())
        .collect();
    (done, tracks)
}

#[test]
fn sixteen_kilohertz_sixteen_bit_passes_bit_for_bit() {
    let samples: Vec<i16> = (0..40_000_i64)
        .map(|index| (index * 7_919 % 65_536 - 32_768) as i16)
        .collect();
    let original = wav(1, 16_000, &samples);
    let (_, tracks) = prepared_bytes(in_memory(original.clone()), ChannelMode::Mix);
    assert_eq!(tracks[0].len(), original.len());
    assert_eq!(tracks[0][44..], original[44..]);
    // So does one channel of two.
    let stereo: Vec<i16> = samples
        .iter()
        .flat_map(|sample| [*sample, !*sample])
        .collect();
    let (done, tracks) = prepared_bytes(in_memory(wav(2, 16_000, &stereo)), ChannelMode::Split);
    assert_eq!(done.facts.channels, 2);
    assert_eq!(tracks[0][44..], original[44..]);
    assert!(
        tracks[1][44..]
            .iter()
            .zip(&original[44..])
            .all(|(inverted, byte)| *inverted == !byte)
    );
}

#[test]
fn a_prepared_file_prepares_to_itself() {
    let (_, first) = prepared_bytes(
        AudioInput::open(&path("aac.m4a")).unwrap(),
        ChannelMode::Mix,
    );
    let (_, second) = prepared_bytes(in_memory(first[0].clone()), ChannelMode::Mix);
    assert_eq!(first, second);
}

#[test]
fn channels_are_averaged_and_loud_ones_do_not_wrap() {
    let stereo: Vec<i16> = (0..16_000).flat_map(|_| [30_000, 32_000]).collect();
    let (done, tracks) = prepared(in_memory(wav(2, 16_000, &stereo)), ChannelMode::Mix).unwrap();
    assert!(
        tracks[0]
            .iter()
            .all(|sample| (sample - 31_000.0 / 32_768.0).abs() < 1e-6)
    );
    assert_eq!(done.tracks[0].levels.clipped, 0.0);
    // A square wave at full scale overshoots in any band-limiting filter; it is clipped, not wrapped.
    let square: Vec<i16> = (0..44_100)
        .map(|index| {
            if index / 50 % 2 == 0 {
                i16::MAX
            } else {
                i16::MIN
            }
        })
        .collect();
    let (_, tracks) = prepared(in_memory(wav(1, 44_100, &square)), ChannelMode::Mix).unwrap();
    let wrapped = tracks[0]
        .windows(2)
        .filter(|pair| (pair[0] - pair[1]).abs() > 1.9)
        .count();
    assert!(
        wrapped < 20,
        "{wrapped} jumps from one end of the scale to the other"
    );
}

#[test]
fn levels_say_how_loud_clipped_and_silent_a_track_is() {
    let mut samples = vec![0_i16; 16_000];
    samples.extend(
        (0..16_000)
            .map(|index| (16_384.0 * (TAU * 440.0 * f64::from(index) / 16_000.0).sin()) as i16),
    );
    let (done, _) = prepared(in_memory(wav(1, 16_000, &samples)), ChannelMode::Mix).unwrap();
    let levels = done.tracks[0].levels;
    // Half a second of silence and half of a tone at −6 dBFS: −9 dB for the sine, −3 for the pause.
    assert!((levels.rms_dbfs + 12.04).abs() < 0.05, "{levels:?}");
    assert!((levels.peak_dbfs + 6.02).abs() < 0.05, "{levels:?}");
    assert!(
        (levels.silent - 0.5).abs() < 0.02 && levels.clipped == 0.0,
        "{levels:?}"
    );
    let (done, _) = prepared(
        in_memory(wav(1, 16_000, &[i16::MAX; 4_000])),
        ChannelMode::Mix,
    )
    .unwrap();
    assert_eq!(done.tracks[0].levels.clipped, 1.0);
    let (done, _) = prepared(in_memory(wav(1, 16_000, &[0; 4_000])), ChannelMode::Mix).unwrap();
    assert_eq!(
        (done.tracks[0].levels.rms_dbfs, done.tracks[0].levels.silent),
        (-120.0, 1.0)
    );
}

#[test]
fn the_waveform_has_few_pairs_whatever_the_length_and_covers_all_of_it() {
    for seconds in [1, 19, 20, 21, 40, 41, 100, 1_000] {
        let mut samples = vec![0_i16; seconds * 16_000];
        samples[8_000] = 16_384;
        *samples.last_mut().unwrap() = -32_768;
        let (done, _) = prepared(in_memory(wav(1, 16_000, &samples)), ChannelMode::Mix).unwrap();
        let Peaks {
            seconds_per_pair,
            pairs,
        } = &done.tracks[0].peaks;
        assert!(
            pairs.len() <= 2_000 && pairs.len() >= 100,
            "{} pairs for {seconds} s",
            pairs.len()
        );
        let covered = pairs.len() as f64 * seconds_per_pair;
        assert!(
            covered >= seconds as f64 && covered < seconds as f64 + seconds_per_pair,
            "{covered} of {seconds} s"
        );
        let loud = (0.5 / seconds_per_pair) as usize;
        assert_eq!(pairs[loud].1, 50, "{seconds} s");
        assert_eq!(pairs.last().unwrap().0, -100, "{seconds} s");
        assert_eq!(
            pairs.iter().filter(|pair| **pair != (0, 0)).count(),
            2,
            "{seconds} s"
        );
    }
}

#[test]
fn progress_grows_to_the_end_and_a_raised_flag_stops_the_work() {
    let samples = vec![0_i16; 30 * 16_000];
    let mut seen = Vec::new();
    let mut create = |_| Ok(Cursor::new(Vec::new()));
    let options = PrepareOptions::default();
    let input = in_memory(wav(1, 16_000, &samples));
    prepare(
        input,
        &options,
        &mut create,
        &mut |progress| seen.push(progress),
        &AtomicBool::new(false),
    )
    .unwrap();
    assert!(seen.len() > 20 && seen.is_sorted_by(|a, b| a.done <= b.done));
    assert_eq!(
        seen.last().map(|last| (last.done, last.total)),
        Some((30.0, Some(30.0)))
    );
    let raised = AtomicBool::new(true);
    let stopped = prepare(
        in_memory(wav(1, 16_000, &samples)),
        &options,
        &mut create,
        &mut |_| {},
        &raised,
    );
    assert!(matches!(stopped, Err(AudioError::Cancelled)));
}

#[test]
fn a_prepared_file_is_read_at_any_place() {
    let samples: Vec<i16> = (0..50_000).map(|index| (index % 30_000) as i16).collect();
    let mut writer = PreparedWavWriter::new(Cursor::new(Vec::new())).unwrap();
    writer.write(&samples[..20_000]).unwrap();
    writer.write(&samples[20_000..]).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    let mut wav = PreparedWav::new(Cursor::new(bytes.clone())).unwrap();
    assert_eq!((wav.len(), wav.duration()), (50_000, 3.125));
    for (start, wanted, expected) in [
        (0, 10, 10),
        (49_990, 100, 10),
        (50_000, 5, 0),
        (u64::MAX, 5, 0),
        (123, 40_000, 40_000),
        (1, 1, 1),
    ] {
        let mut out = vec![9.0; wanted];
        assert_eq!(wav.read(start, &mut out).unwrap(), expected, "{start}");
        for (offset, sample) in out[..expected].iter().enumerate() {
            assert_eq!(
                *sample * 32_768.0,
                f32::from(samples[start as usize + offset])
            );
        }
    }
    assert!(
        PreparedWav::new(Cursor::new(bytes[..60_000].to_vec()))
            .unwrap_err()
            .is_client_error()
    );
    assert!(PreparedWav::new(Cursor::new(b"RIFF".to_vec())).is_err());
}
