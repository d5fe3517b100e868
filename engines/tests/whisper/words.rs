//! Times of tokens against the reference's, and of words against the synthesiser's.

use dalston_engines::mel::{LogMel, Stretch, normalize};
use dalston_engines::model_folder::{ModelFolder, Precision};
use dalston_engines::whisper::backend::Backend;
use dalston_engines::whisper::model::PublishedModel;
use dalston_engines::whisper::timing::token_times;
use dalston_engines::{Device, LongForm, RunGuard, SAMPLE_RATE, SpeechRegion, TranscribeOptions};
use ndarray::{Array3, Axis, s};
use serde::Deserialize;

use crate::fixture::{audio, float_model, golden, golden_options, model_dir, runtime, transcribe};

#[derive(Deserialize)]
struct TokenTimes {
    audio: String,
    tokens: Vec<u32>,
    token_timestamps: Vec<f64>,
    reference_words: Vec<ReferenceWord>,
}

#[derive(Deserialize)]
struct ReferenceWord {
    word: String,
    start: f64,
}

/// The aligned files that are in the repository.
const BUNDLED: usize = 8;

/// `<|startoftranscript|><|en|><|transcribe|>`.
const PROMPT: [u32; 3] = [849, 850, 950];

fn cases() -> Vec<TokenTimes> {
    let goldens: Vec<TokenTimes> = golden("token_timestamps.json");
    let cases: Vec<TokenTimes> = goldens.into_iter().take(BUNDLED).collect();
    assert_eq!(cases.len(), BUNDLED);
    cases
}

#[test]
fn token_times_equal_the_reference() {
    let folder = ModelFolder::read(&model_dir(), Precision::Float, Device::Cpu).unwrap();
    let heads = folder.alignment_heads.clone().unwrap();
    let mut model = PublishedModel::load(&runtime(), &folder, 1).unwrap();
    let run = RunGuard::new().unwrap();
    let log_mel = LogMel::new(80, 400, 160);
    for case in cases() {
        let samples = audio(&case.audio);
        let stretch = Stretch {
            source: &samples,
            start: 0,
            n_samples: 480_000,
        };
        let mut mel = Array3::zeros((1, 80, 3000));
        let mut features = mel.index_axis_mut(Axis(0), 0);
        log_mel
            .log10_frames(&stretch, 0, features.view_mut(), 1)
            .unwrap();
        normalize(
            &mut features,
            log_mel.maximum(&stretch, 0..3000, 1).unwrap(),
        );
        let encoded = model.encode(mel.view(), &run).unwrap();
        // The reference times a token by the row it is fed in, and knows no row for the end token.
        let sequence = [&PROMPT[..], &case.tokens[..]].concat();
        let attention = model
            .attend(&encoded, &[0], &[sequence], &heads, &run)
            .unwrap();
        let n_columns = samples.len().div_ceil(160) / 2;
        let rows = attention[0].slice(s![.., PROMPT.len().., ..n_columns]);
        let times = token_times(rows, folder.median_filter_width);
        assert_eq!(times.len(), case.token_timestamps.len());
        for (at, (ours, theirs)) in times.iter().zip(&case.token_timestamps).enumerate() {
            assert!(
                (ours - theirs).abs() < 0.021,
                "{} token {at}: {ours} instead of {theirs}",
                case.audio
            );
        }
    }
}

#[test]
fn words_of_sentences_in_one_window_last_some_time_and_stay_in_their_sentence() {
    let (mut samples, mut regions) = (Vec::new(), Vec::new());
    for case in cases() {
        let start = samples.len() as f64 / f64::from(SAMPLE_RATE);
        samples.extend(audio(&case.audio));
        let end = samples.len() as f64 / f64::from(SAMPLE_RATE);
        regions.push(SpeechRegion { start, end });
    }
    let options = TranscribeOptions {
        word_timestamps: true,
        long_form: LongForm::Batched(regions),
        ..golden_options()
    };
    let answer = transcribe(float_model(), samples, options);
    let mut n_words = 0;
    for segment in &answer.segments {
        let mut from = segment.start;
        for word in &segment.words {
            assert!(word.start < word.end, "{word:?}");
            assert!(from <= word.start + 1e-9, "{word:?} begins before {from}");
            from = word.end;
            n_words += 1;
        }
        assert!(from <= segment.end + 1e-9, "{from} {}", segment.end);
    }
    assert!(n_words > 30, "{n_words} words");
}

#[test]
fn words_are_timed_near_where_they_are_said() {
    let mut errors = Vec::new();
    for case in cases() {
        let options = TranscribeOptions {
            word_timestamps: true,
            ..golden_options()
        };
        let answer = transcribe(float_model(), audio(&case.audio), options);
        let words: Vec<_> = answer
            .segments
            .iter()
            .flat_map(|segment| &segment.words)
            .collect();
        let joined: String = words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(joined.trim(), answer.text);
        assert!(
            words.windows(2).all(|pair| pair[0].start <= pair[1].start),
            "{words:?}"
        );
        assert!(
            words
                .iter()
                .all(|word| word.start <= word.end && word.end <= answer.duration)
        );
        assert!(
            words
                .iter()
                .all(|word| (0.0..=1.0).contains(&word.probability))
        );
        for (ours, reference) in words.iter().zip(&case.reference_words) {
            if ours.text.to_lowercase().contains(&reference.word) {
                errors.push((ours.start - reference.start).abs());
            }
        }
    }
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    assert!(errors.len() > 30, "{} words matched", errors.len());
    // The nano model's attention is a poor clock; the code is compared to the reference above.
    assert!(mean < 0.3, "words are {mean:.3} s off on average");
}
