//! Who said what: the synthetic conversations, whose every word has a known speaker, and recordings with a channel or a
//! file per speaker.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::product::{Product, form, repository, words};
use crate::recordings::{dialogue, samples, utterance, write_call};

async fn product_with_a_worker() -> Product {
    let mut product = Product::start().await;
    product.start_worker().await;
    product
}

/// A spoken word and who said it.
type Said = (String, String);

/// What was really said, in order.
fn reference(name: &str) -> Vec<Said> {
    let path = repository().join(format!("tests/audio/dialogues/{name}.json"));
    let truth: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut segments = truth["segments"].as_array().unwrap().clone();
    segments.sort_by(|a, b| {
        let start = |segment: &Value| segment["start"].as_f64().unwrap();
        start(a).total_cmp(&start(b))
    });
    segments
        .iter()
        .flat_map(|segment| {
            let speaker = segment["speaker"].as_str().unwrap().to_owned();
            words(segment["text"].as_str().unwrap())
                .into_iter()
                .map(move |word| (word, speaker.clone()))
        })
        .collect()
}

/// What the transcript says, in order. Words without times count with the speaker of their segment.
fn transcribed(job: &Value) -> Vec<Said> {
    job["segments"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|segment| {
            let speaker = segment["speaker"].as_str().unwrap_or("nobody").to_owned();
            words(segment["text"].as_str().unwrap())
                .into_iter()
                .map(move |word| (word, speaker.clone()))
        })
        .collect()
}

/// The words both have, as pairs of speakers, by the alignment with fewest edits.
fn matched(truth: &[Said], heard: &[Said]) -> Vec<(String, String)> {
    let width = heard.len() + 1;
    let mut costs = vec![0_usize; (truth.len() + 1) * width];
    for (at, cost) in costs.iter_mut().enumerate().take(width) {
        *cost = at;
    }
    for row in 1..=truth.len() {
        costs[row * width] = row;
        for column in 1..width {
            let differs = usize::from(truth[row - 1].0 != heard[column - 1].0);
            costs[row * width + column] = (costs[(row - 1) * width + column - 1] + differs)
                .min(costs[(row - 1) * width + column] + 1)
                .min(costs[row * width + column - 1] + 1);
        }
    }
    let (mut row, mut column) = (truth.len(), heard.len());
    let mut pairs = Vec::new();
    while row > 0 && column > 0 {
        let here = costs[row * width + column];
        let differs = usize::from(truth[row - 1].0 != heard[column - 1].0);
        if here == costs[(row - 1) * width + column - 1] + differs {
            if differs == 0 {
                pairs.push((truth[row - 1].1.clone(), heard[column - 1].1.clone()));
            }
            row -= 1;
            column -= 1;
        } else if here == costs[(row - 1) * width + column] + 1 {
            row -= 1;
        } else {
            column -= 1;
        }
    }
    pairs
}

/// The share of words that went to the wrong speaker, each found speaker standing for the true one they share most
/// words with.
#[expect(clippy::cast_precision_loss, reason = "word counts are small")]
fn word_speaker_error(truth: &[Said], heard: &[Said]) -> f64 {
    let pairs = matched(truth, heard);
    let mut together: HashMap<(String, String), usize> = HashMap::new();
    for (true_speaker, found) in &pairs {
        *together
            .entry((found.clone(), true_speaker.clone()))
            .or_default() += 1;
    }
    let mut counts: Vec<_> = together.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    // One to one: a speaker split in two must not count as right twice.
    let mut named: HashMap<String, String> = HashMap::new();
    for ((found, true_speaker), _) in counts {
        if !named.contains_key(&found) && !named.values().any(|taken| *taken == true_speaker) {
            named.insert(found, true_speaker);
        }
    }
    let wrong = pairs
        .iter()
        .filter(|(true_speaker, found)| named.get(found) != Some(true_speaker))
        .count();
    wrong as f64 / pairs.len().max(1) as f64
}

#[test]
fn the_measure_counts_words_at_the_wrong_speaker() {
    let said = |list: &[(&str, &str)]| -> Vec<Said> {
        list.iter()
            .map(|(word, speaker)| ((*word).to_owned(), (*speaker).to_owned()))
            .collect()
    };
    let truth = said(&[("a", "X"), ("b", "X"), ("c", "Y"), ("d", "Y")]);
    let right = said(&[("a", "1"), ("oh", "2"), ("b", "1"), ("c", "2"), ("d", "2")]);
    assert!(word_speaker_error(&truth, &right) < 1e-9);
    let wrong = said(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "2")]);
    assert!((word_speaker_error(&truth, &wrong) - 0.25).abs() < 1e-9);
    let split = said(&[("a", "1"), ("b", "3"), ("c", "2"), ("d", "2")]);
    assert!((word_speaker_error(&truth, &split) - 0.25).abs() < 1e-9);
}

#[tokio::test]
async fn words_of_conversations_go_to_the_right_speakers() {
    let product = product_with_a_worker().await;
    for (name, speakers, worst) in [("dlg01", 2, 0.05), ("dlg05", 3, 0.10)] {
        let fields = [
            ("language", "en"),
            ("model", "whisper-nano"),
            ("model_align", "wav2vec2-nano"),
            ("speaker_detection", "diarize"),
        ];
        let job = product.submit(&dialogue(name), &fields).await;
        let body = product.wait_completed(&job).await;
        assert_eq!(
            body["speakers"].as_array().unwrap().len(),
            speakers,
            "{name}"
        );
        assert_eq!(body["segments"][0]["speaker"], "SPEAKER_00");
        let error = word_speaker_error(&reference(name), &transcribed(&body));
        eprintln!(
            "{name}: {:.1} % of words at the wrong speaker",
            error * 100.0
        );
        assert!(error <= worst, "{name}: {error:.3} {:#}", body["segments"]);
        for segment in body["segments"].as_array().unwrap() {
            assert!(segment["speaker"].is_string(), "{segment}");
            for word in segment["words"].as_array().unwrap() {
                assert_eq!(word["speaker"], segment["speaker"]);
                assert_eq!(word["alignment_method"], "phoneme_wav2vec");
            }
        }
    }
}

#[tokio::test]
async fn channels_are_speakers_and_what_bled_over_is_said_once() {
    let product = product_with_a_worker().await;
    let (first, second) = (utterance("test-00017"), utterance("test-00000"));
    let path = product.folder().join("call.wav");
    let later = samples(&first).len() as f64 / 16_000.0 + 0.5;
    write_call(&path, &first, &second, later);
    let alone = |path: PathBuf| {
        let product = &product;
        async move {
            let job = product
                .submit(&path, &[("model", "whisper-nano"), ("language", "en")])
                .await;
            words(product.wait_completed(&job).await["text"].as_str().unwrap())
        }
    };
    let (said_first, said_second) = (alone(first).await, alone(second).await);
    let fields = [
        ("speaker_detection", "per_channel"),
        ("model", "whisper-nano"),
        ("language", "en"),
    ];
    let job = product.submit(&path, &fields).await;
    let body = product.wait_completed(&job).await;
    let stages: Vec<&str> = body["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["stage"].as_str().unwrap())
        .collect();
    assert_eq!(
        stages,
        [
            "prepare",
            "transcribe_ch0",
            "transcribe_ch1",
            "align_ch0",
            "align_ch1",
            "merge"
        ]
    );
    let of = |speaker: &str| -> Vec<String> {
        transcribed(&body)
            .into_iter()
            .filter(|(_, by)| by == speaker)
            .map(|(word, _)| word)
            .collect()
    };
    assert_eq!(of("SPEAKER_00"), said_first, "{:#}", body["segments"]);
    assert_eq!(of("SPEAKER_01"), said_second, "{:#}", body["segments"]);
    assert_eq!(body["speakers"][1]["channel"], 1);

    let mono = product
        .try_submit(&utterance("test-00000"), &fields)
        .await
        .unwrap();
    assert_eq!(mono.status(), 400);
    let refusal: Value = mono.json().await.unwrap();
    let message = refusal["error"]["message"].as_str().unwrap();
    assert!(
        message
            .starts_with("per_channel speaker detection requires stereo audio, got 1 channel(s)"),
        "{message}"
    );
}

#[tokio::test]
async fn files_of_one_recording_are_tracks_with_a_speaker_each() {
    let product = product_with_a_worker().await;
    let tracks = json!([{"name": "Ada", "offset": 0}, {"name": "Grace", "offset": 30}]);
    let fields = [
        ("tracks", tracks.to_string()),
        ("model", "whisper-nano".to_owned()),
        ("language", "en".to_owned()),
    ];
    let files = ["test-00017", "test-00000"].map(utterance);
    let job = product.submit_form(form(&files, &fields)).await;
    let body = product.wait_completed(&job).await;
    let labels: Vec<&Value> = body["speakers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|speaker| &speaker["label"])
        .collect();
    assert_eq!(labels, ["Ada", "Grace"]);
    for segment in body["segments"].as_array().unwrap() {
        let expected = if segment["start"].as_f64().unwrap() < 30.0 {
            "SPEAKER_00"
        } else {
            "SPEAKER_01"
        };
        assert_eq!(segment["speaker"], expected, "{segment}");
    }
    assert!(body["audio_duration_seconds"].as_f64().unwrap() > 30.0);
    assert!(words(body["text"].as_str().unwrap()).len() > 10);
}
