//! What a diarizer must do whichever models run: silence, bounds, cancellation, time limits, progress, company.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dalston_engines::{
    AudioSource, CancelFlag, Control, DiarizeRequest, EngineError, KnownSpeaker, Result,
};

use crate::fixture::{dialogue, diarizer, samples};

/// A dialogue over and over: hours of speech that take no memory.
struct Repeated {
    once: Arc<dyn AudioSource>,
    n_samples: u64,
}

impl AudioSource for Repeated {
    fn n_samples(&self) -> u64 {
        self.n_samples
    }

    fn read(&self, start: u64, out: &mut [f32]) -> Result<()> {
        let length = self.once.n_samples();
        let mut at = start;
        let mut rest = &mut out[..];
        while !rest.is_empty() {
            let held = usize::try_from(length - at % length)
                .unwrap()
                .min(rest.len());
            self.once.read(at % length, &mut rest[..held])?;
            at += held as u64;
            rest = &mut rest[held..];
        }
        Ok(())
    }
}

fn hours(hours: u64) -> Arc<dyn AudioSource> {
    Arc::new(Repeated {
        once: dialogue("dlg01"),
        n_samples: hours * 3600 * 16_000,
    })
}

#[test]
fn silence_and_no_audio_have_no_speakers() {
    for n_samples in [0, 1, 4_000, 800_000] {
        let answer = diarizer()
            .diarize(DiarizeRequest::new(Arc::new(vec![0.0_f32; n_samples])))
            .unwrap();
        assert!(answer.turns.is_empty() && answer.speakers.is_empty());
        assert_eq!(answer.overlap_seconds, 0.0);
    }
}

#[test]
fn a_clip_shorter_than_a_window_has_its_speaker() {
    // One utterance of dlg01: from 1.027 s to 3.963 s.
    let clip = samples(&*dialogue("dlg01"), 16_000, 48_000);
    let answer = diarizer()
        .diarize(DiarizeRequest::new(Arc::new(clip)))
        .unwrap();
    assert_eq!(answer.speakers.len(), 1);
    let [turn] = &answer.turns[..] else {
        panic!("one turn: {:?}", answer.turns);
    };
    assert!(turn.start < 0.2 && turn.end > 2.8 && turn.end <= 3.0);
    assert!(turn.confidence > 0.9 && turn.overlapping.is_empty());
}

#[test]
fn turns_are_in_order_inside_the_audio_and_tell_their_overlaps() {
    let audio = dialogue("dlg06");
    let duration = audio.duration();
    let answer = diarizer().diarize(DiarizeRequest::new(audio)).unwrap();
    let turns = &answer.turns;
    assert!(turns.windows(2).all(|pair| pair[0].start <= pair[1].start));
    let mut first_heard = Vec::new();
    for turn in turns {
        assert!(0.0 <= turn.start && turn.start < turn.end && turn.end <= duration);
        assert!((0.0..=1.0).contains(&turn.confidence));
        let beside: Vec<usize> = (0..answer.speakers.len())
            .filter(|&speaker| {
                turns.iter().any(|other| {
                    other.speaker == speaker
                        && other.speaker != turn.speaker
                        && other.start < turn.end
                        && turn.start < other.end
                })
            })
            .collect();
        assert_eq!(turn.overlapping, beside);
        if !first_heard.contains(&turn.speaker) {
            first_heard.push(turn.speaker);
        }
    }
    assert_eq!(first_heard, [0, 1, 2], "numbered in order of first speech");
    assert!(turns.iter().any(|turn| !turn.overlapping.is_empty()));
    assert!(answer.overlap_seconds > 0.05);
    for (at, speaker) in answer.speakers.iter().enumerate() {
        let spoken = turns.iter().filter(|turn| turn.speaker == at);
        let spoken: f64 = spoken.map(|turn| turn.end - turn.start).sum();
        assert!((speaker.speech_seconds - spoken).abs() < 1e-9);
        let length: f32 = speaker.embedding.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-4);
    }
}

#[test]
fn bounds_hold_and_impossible_ones_are_refused() {
    let speakers = |num, min, max| {
        let request = DiarizeRequest {
            num_speakers: num,
            min_speakers: min,
            max_speakers: max,
            ..DiarizeRequest::new(dialogue("dlg06"))
        };
        diarizer()
            .diarize(request)
            .map(|answer| answer.speakers.len())
    };
    assert_eq!(speakers(Some(1), None, None).unwrap(), 1);
    assert_eq!(speakers(None, None, Some(2)).unwrap(), 2);
    assert_eq!(speakers(None, Some(4), None).unwrap(), 4);
    for (num, min, max) in [(None, Some(3), Some(2)), (Some(0), None, None)] {
        let refused = speakers(num, min, max);
        assert!(matches!(refused, Err(EngineError::InvalidRequest(_))));
    }
}

#[test]
fn a_cancelled_request_ends_within_a_second() {
    let cancel = CancelFlag::new();
    let cancelled_at = Arc::new(Mutex::new(None));
    let progress = {
        let (flag, at) = (cancel.clone(), Arc::clone(&cancelled_at));
        Arc::new(move |_: f64| {
            at.lock().unwrap().get_or_insert_with(Instant::now);
            flag.cancel();
        })
    };
    let request = DiarizeRequest {
        control: Control {
            cancel,
            progress: Some(progress),
            ..Control::default()
        },
        ..DiarizeRequest::new(hours(10))
    };
    let error = diarizer().diarize(request).unwrap_err();
    let took = cancelled_at.lock().unwrap().unwrap().elapsed();
    assert!(matches!(error, EngineError::Cancelled), "{error}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_request_that_takes_too_long_is_ended_with_its_limit_named() {
    let request = DiarizeRequest {
        time_limit: Some(Duration::from_millis(60)),
        ..DiarizeRequest::new(hours(10))
    };
    let error = diarizer().diarize(request).unwrap_err();
    assert!(matches!(error, EngineError::TimeLimit { .. }), "{error}");
}

#[test]
fn progress_only_grows_and_ends_at_the_duration() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let progress = {
        let told = Arc::clone(&told);
        Arc::new(move |seconds: f64| told.lock().unwrap().push(seconds))
    };
    let audio = dialogue("dlg01");
    let duration = audio.duration();
    let request = DiarizeRequest {
        control: Control {
            cancel: CancelFlag::new(),
            progress: Some(progress),
            ..Control::default()
        },
        ..DiarizeRequest::new(audio)
    };
    diarizer().diarize(request).unwrap();
    let told = told.lock().unwrap();
    assert!(told.len() > 5 && told.windows(2).all(|pair| pair[0] <= pair[1]));
    assert_eq!(*told.last().unwrap(), duration);
}

#[test]
fn requests_side_by_side_are_answered_as_if_alone() {
    let names = ["dlg01", "dlg03"];
    let one = |name| diarizer().diarize(DiarizeRequest::new(dialogue(name)));
    let alone = names.map(|name| one(name).unwrap());
    let together = std::thread::scope(|scope| {
        names
            .map(|name| scope.spawn(move || one(name).unwrap()))
            .map(|thread| thread.join().unwrap())
    });
    assert_eq!(alone, together);
}

#[test]
fn known_speakers_get_their_names_and_strangers_none() {
    // Utterances of both speakers of dlg01, and one of a voice that is not in it.
    let clip = |name: &str, dialogue_name: &str, start: f64, end: f64| KnownSpeaker {
        name: name.to_owned(),
        audio: Arc::new(samples(
            &*dialogue(dialogue_name),
            (start * 16_000.0) as u64,
            ((end - start) * 16_000.0) as usize,
        )),
    };
    let silence = KnownSpeaker {
        name: "Nobody".to_owned(),
        audio: Arc::new(vec![0.0_f32; 48_000]),
    };
    let truth = crate::scoring::read_rttm(&crate::fixture::truth("dlg01"));
    let long_turn = |speaker: usize| {
        let mut turns = truth.iter().filter(|turn| turn.speaker == speaker);
        let turn = turns.find(|turn| turn.end - turn.start > 2.0).unwrap();
        (turn.start, turn.end)
    };
    let (first, second) = (long_turn(0), long_turn(1));
    let stranger = crate::scoring::read_rttm(&crate::fixture::truth("dlg06"));
    let stranger = stranger.iter().find(|turn| turn.end - turn.start > 2.0);
    let stranger = stranger.unwrap();
    let request = DiarizeRequest {
        known: vec![
            clip("Second", "dlg01", second.0, second.1),
            clip("Stranger", "dlg06", stranger.start, stranger.end),
            clip("First", "dlg01", first.0, first.1),
            silence,
        ],
        ..DiarizeRequest::new(dialogue("dlg01"))
    };
    let answer = diarizer().diarize(request).unwrap();
    let names: Vec<Option<&str>> = answer.speakers.iter().map(|s| s.name.as_deref()).collect();
    assert_eq!(names, [Some("First"), Some("Second")]);
    for speaker in &answer.speakers {
        assert!(speaker.known_similarity.unwrap() > 0.5);
    }
    let warned = |name: &str| answer.warnings.iter().any(|text| text.contains(name));
    assert!(
        warned("Stranger") && warned("Nobody"),
        "{:?}",
        answer.warnings
    );
}
