//! The error rate of the six dialogues, and the turns beside the reference pipeline's.

use std::sync::OnceLock;

use dalston_engines::{Diarization, DiarizeRequest};

use crate::fixture::{DIALOGUES, dialogue, diarizer, reference, truth};
use crate::scoring::{error_rate, read_rttm, turns};

/// How much worse than the reference pipeline we may be.
const TOLERANCE: f64 = 0.005;

fn golden() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(reference("der.json")).unwrap()).unwrap()
}

fn diarize(name: &str, num_speakers: Option<usize>) -> Diarization {
    diarizer()
        .diarize(DiarizeRequest {
            num_speakers,
            ..DiarizeRequest::new(dialogue(name))
        })
        .unwrap()
}

/// The six dialogues without any help, once for all tests.
fn unaided() -> &'static [Diarization] {
    static ANSWERS: OnceLock<Vec<Diarization>> = OnceLock::new();
    ANSWERS.get_or_init(|| {
        let names = DIALOGUES.iter();
        names.map(|(name, _)| diarize(name, None)).collect()
    })
}

#[test]
fn the_scorer_agrees_with_pyannote_metrics_on_the_reference_pipeline() {
    let golden = golden();
    for (name, _) in DIALOGUES {
        let theirs = read_rttm(&reference(&format!("{name}.rttm")));
        let facts = &golden["files"][name];
        for (collar, key) in [(0.0, "der_c0"), (0.25, "der_c0.25"), (0.5, "der_c0.5")] {
            let rate = error_rate(&read_rttm(&truth(name)), &theirs, collar).rate();
            let expected = facts[key].as_f64().unwrap();
            assert!(
                (rate - expected).abs() < 2e-4,
                "{name} {key}: {rate}, pyannote.metrics says {expected}"
            );
        }
        let error = error_rate(&read_rttm(&truth(name)), &theirs, 0.0);
        let detail = &facts["detail_c0"];
        for (ours, key) in [
            (error.missed, "missed detection"),
            (error.false_alarm, "false alarm"),
            (error.confusion, "confusion"),
            (error.total, "total"),
        ] {
            let expected = detail[key].as_f64().unwrap();
            assert!(
                (ours - expected).abs() < 0.03,
                "{name} {key}: {ours} {expected}"
            );
        }
    }
}

#[test]
fn the_error_rate_is_no_worse_than_the_reference_pipelines() {
    let golden = golden();
    for ((name, n_speakers), answer) in DIALOGUES.iter().zip(unaided()) {
        let rate = error_rate(&read_rttm(&truth(name)), &turns(answer), 0.0).rate();
        let expected = golden["files"][name]["der_c0"].as_f64().unwrap();
        assert!(
            rate <= expected + TOLERANCE,
            "{name}: {rate:.4}, the reference has {expected:.4}"
        );
        assert_eq!(answer.speakers.len(), *n_speakers, "{name}");
    }
}

#[test]
fn the_error_rate_is_no_worse_when_the_number_of_speakers_is_given() {
    let golden = golden();
    // The two dialogues that leave most room for error.
    for (name, n_speakers) in [("dlg04", 2), ("dlg06", 3)] {
        let answer = diarize(name, Some(n_speakers));
        let rate = error_rate(&read_rttm(&truth(name)), &turns(&answer), 0.0).rate();
        let expected = golden["files"][name]["der_given_n_c0"].as_f64().unwrap();
        assert!(rate <= expected + TOLERANCE, "{name}: {rate:.4}");
        assert_eq!(answer.speakers.len(), n_speakers);
    }
}

#[test]
fn turns_equal_the_reference_pipelines() {
    for ((name, _), answer) in DIALOGUES.iter().zip(unaided()) {
        let theirs = read_rttm(&reference(&format!("{name}.rttm")));
        let ours = turns(answer);
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!(
                ours.speaker == theirs.speaker
                    && (ours.start - theirs.start).abs() < 0.002
                    && (ours.end - theirs.end).abs() < 0.002,
                "{name}: {ours:?} {theirs:?}"
            );
        }
    }
}
