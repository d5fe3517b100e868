//! What must hold on any audio: no words where nobody speaks, no loops, the same text however it is batched.

use std::path::Path;
use std::sync::Arc;

use dalston_engines::model_folder::Precision;
use dalston_engines::{
    AudioSource, Control, EngineError, LongForm, SileroVad, SpeechRegion, Task, TranscribeOptions,
    TranscribeRequest, Transcription, VadOptions,
};

use crate::fixture::{
    audio, float_model, golden, golden_options, int8_model, load, model_dir, runtime, tokens,
    transcribe, transcribe_all,
};
use crate::longform::Dialogues;
use crate::utterances::Utterances;
use crate::word_errors::word_error_rate;

const RATE: usize = 16_000;

/// Uniform noise of an amplitude.
fn noise(seconds: usize, amplitude: f32) -> Vec<f32> {
    let mut state = 42_u64;
    (0..seconds * RATE)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0) * amplitude
        })
        .collect()
}

/// Chords that change every half second, with an attack and a decay.
fn music(seconds: usize) -> Vec<f32> {
    const CHORDS: [[f32; 3]; 4] = [
        [261.6, 329.6, 392.0],
        [220.0, 261.6, 329.6],
        [174.6, 220.0, 261.6],
        [196.0, 246.9, 293.7],
    ];
    (0..seconds * RATE)
        .map(|i| {
            let t = i as f32 / RATE as f32;
            let chord = CHORDS[(t * 2.0) as usize % CHORDS.len()];
            let envelope = (-(t * 2.0).fract() * 3.0).exp();
            chord
                .iter()
                .map(|hertz| (std::f32::consts::TAU * hertz * t).sin())
                .sum::<f32>()
                * 0.15
                * envelope
        })
        .collect()
}

fn tone(seconds: usize, hertz: f32) -> Vec<f32> {
    (0..seconds * RATE)
        .map(|i| (std::f32::consts::TAU * hertz * i as f32 / RATE as f32).sin() * 0.3)
        .collect()
}

fn says_nothing(name: &str, samples: Vec<f32>) {
    let answer = transcribe(float_model(), samples, TranscribeOptions::default());
    assert_eq!(answer.text, "", "{name}: {:?}", answer.segments);
    assert!(answer.segments.is_empty());
}

#[test]
fn silence_gives_no_words() {
    says_nothing("digital silence", vec![0.0; 5 * RATE]);
    says_nothing("a minute of it", vec![0.0; 60 * RATE]);
    says_nothing("nothing at all", Vec::new());
}

#[test]
fn noise_gives_no_words() {
    for amplitude in [0.001, 0.02, 0.3] {
        says_nothing(&format!("noise at {amplitude}"), noise(8, amplitude));
    }
}

/// The stretches of speech that voice activity detection finds, as the product finds them.
fn speech(samples: &dyn AudioSource) -> LongForm {
    let folder = model_dir().join("../silero-vad");
    let mut vad = SileroVad::load(&runtime(), &folder).unwrap();
    let spans = vad
        .speech(samples, &VadOptions::default(), &Control::default())
        .unwrap();
    LongForm::Batched(spans.into_iter().map(SpeechRegion::from).collect())
}

#[test]
fn music_and_tones_give_no_words() {
    let mut sounds = vec![music(10)];
    sounds.extend([110.0, 440.0, 3000.0].map(|hertz| tone(6, hertz)));
    for samples in sounds {
        let options = TranscribeOptions {
            long_form: speech(&samples),
            ..TranscribeOptions::default()
        };
        let answer = transcribe(float_model(), samples, options);
        assert_eq!(answer.text, "", "{:?}", answer.segments);
    }
}

fn utterances(n: usize) -> (Vec<String>, Vec<Vec<f32>>) {
    let goldens: Utterances = golden("utterances.json");
    let step = goldens.utterances.len() / n;
    let some = goldens.utterances.iter().step_by(step).take(n);
    some.map(|case| (case.reference.clone(), audio(&case.audio)))
        .unzip()
}

fn texts(answers: &[Transcription]) -> Vec<String> {
    answers.iter().map(|answer| answer.text.clone()).collect()
}

#[test]
fn a_vocabulary_that_harms_the_text_is_left_out() {
    let samples = audio("aligned/al-000.wav");
    let whole = SpeechRegion {
        start: 0.0,
        end: samples.duration(),
    };
    let with = |vocabulary: &[&str]| {
        let options = TranscribeOptions {
            language: Some("en".to_owned()),
            vocabulary: vocabulary.iter().map(|word| (*word).to_owned()).collect(),
            long_form: LongForm::Batched(vec![whole]),
            ..TranscribeOptions::default()
        };
        transcribe(int8_model(), samples.clone(), options)
    };
    let plain = with(&[]);
    assert!(plain.warnings.is_empty());
    for vocabulary in [["Zebulon", "Quark"], ["question", "email"]] {
        let answer = with(&vocabulary);
        assert_eq!(answer.text, plain.text, "{vocabulary:?}");
        assert!(answer.warnings[0].contains("left out"), "{vocabulary:?}");
    }
}

#[test]
fn int8_makes_few_word_errors() {
    let (references, files) = utterances(100);
    let answers = transcribe_all(int8_model(), files, &golden_options());
    let rate = word_error_rate(&references, &texts(&answers));
    assert!(rate <= 0.045, "word error rate {rate:.4}");
}

#[test]
fn one_beam_is_greedy_and_five_are_no_worse() {
    let (references, files) = utterances(24);
    let greedy = transcribe_all(float_model(), files.clone(), &golden_options());
    let beams = TranscribeOptions {
        beam_size: 5,
        ..golden_options()
    };
    let beams = transcribe_all(float_model(), files, &beams);
    let (greedy_rate, beam_rate) = (
        word_error_rate(&references, &texts(&greedy)),
        word_error_rate(&references, &texts(&beams)),
    );
    assert!(
        beam_rate <= greedy_rate + 0.005,
        "{beam_rate:.4} with beams, {greedy_rate:.4} without"
    );
}

#[test]
fn the_with_past_layout_equals_the_merged_one() {
    let folder = std::env::temp_dir().join(format!("dalston-with-past-{}", std::process::id()));
    let onnx = folder.join("onnx");
    std::fs::create_dir_all(&onnx).unwrap();
    let link = |from: &Path, to: &Path| std::os::unix::fs::symlink(from, to).unwrap();
    for name in [
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
    ] {
        link(&model_dir().join(name), &folder.join(name));
    }
    for name in [
        "encoder_model.onnx",
        "decoder_model.onnx",
        "decoder_with_past_model.onnx",
    ] {
        link(&model_dir().join("onnx").join(name), &onnx.join(name));
    }
    let with_past = load(&folder, Precision::Auto);
    std::fs::remove_dir_all(&folder).unwrap();
    let (_, files) = utterances(8);
    let ours = transcribe_all(&with_past, files.clone(), &golden_options());
    let merged = transcribe_all(float_model(), files, &golden_options());
    for (ours, merged) in ours.iter().zip(&merged) {
        assert_eq!(tokens(ours), tokens(merged));
    }
    let words = TranscribeOptions {
        word_timestamps: true,
        ..golden_options()
    };
    let answer = transcribe(&with_past, audio("utterances/dev-00000.wav"), words);
    assert!(answer.segments[0].words.is_empty());
    assert!(
        answer.warnings[0].contains("cross-attention"),
        "{:?}",
        answer.warnings
    );
}

#[test]
fn the_language_is_detected_and_its_probability_told() {
    let options = TranscribeOptions {
        language: None,
        ..TranscribeOptions::default()
    };
    let answer = transcribe(float_model(), audio("utterances/dev-00001.wav"), options);
    assert_eq!(answer.language, "en");
    assert!(answer.language_probability.unwrap() > 0.99);
    assert!(
        answer.segments[0]
            .no_speech_prob
            .is_some_and(|silent| silent < 1e-3)
    );
}

#[test]
fn an_unknown_language_is_refused_with_those_that_are_known() {
    let options = TranscribeOptions {
        language: Some("tlh".to_owned()),
        ..golden_options()
    };
    let request = TranscribeRequest::new(Arc::new(vec![0.0; RATE]), options);
    let error = float_model().transcribe(request).unwrap_err();
    assert!(
        matches!(&error, EngineError::InvalidRequest(text) if text.contains("en, zh, de")),
        "{error}"
    );
}

#[test]
fn prompt_vocabulary_and_translation_reach_the_model() {
    let file = audio("utterances/dev-00001.wav");
    let plain = transcribe(float_model(), file.clone(), golden_options());
    let with = |change: &dyn Fn(&mut TranscribeOptions)| {
        let mut options = golden_options();
        change(&mut options);
        let answer = transcribe(float_model(), file.clone(), options);
        (answer.segments[0].avg_logprob, answer.warnings)
    };
    let unchanged = (plain.segments[0].avg_logprob, Vec::new());
    assert_ne!(
        with(&|options| options.prompt = Some("My phone number is".to_owned())),
        unchanged
    );
    // It was tried, and left out where it brings no word.
    assert_ne!(
        with(&|options| options.vocabulary = vec!["phone".to_owned(), "number".to_owned()]),
        unchanged
    );
    assert_ne!(with(&|options| options.task = Task::Translate), unchanged);
}

#[test]
fn batched_windows_over_speech_are_as_good_as_the_sequential_walk() {
    let goldens: Dialogues = golden("dialogues_longform.json");
    for name in ["dialogues/dlg01.wav", "dialogues/dlg03.wav"] {
        let dialogue = goldens
            .files
            .iter()
            .find(|file| file.audio == name)
            .unwrap();
        let samples = audio(name);
        let options = TranscribeOptions {
            long_form: speech(&samples),
            ..golden_options()
        };
        let answer = transcribe(float_model(), samples, options);
        let references = [dialogue.reference.clone()];
        let sequential = word_error_rate(&references, std::slice::from_ref(&dialogue.no_prev.text));
        let batched = word_error_rate(&references, std::slice::from_ref(&answer.text));
        assert!(
            batched < sequential + 0.06,
            "{name}: {batched:.3} batched, {sequential:.3} sequential"
        );
        assert!(
            answer
                .segments
                .windows(2)
                .all(|pair| pair[0].start <= pair[1].start)
        );
        assert!(
            answer
                .segments
                .iter()
                .all(|segment| segment.start < segment.end)
        );
    }
}
