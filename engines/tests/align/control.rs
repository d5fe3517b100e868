//! Cancellation, time limits, progress and refusals.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::fixture::{Playlist, align_all, float, request, seconds, segment, spoken};
use dalston_engines::{AlignRequest, AudioSource, CancelFlag, Control, EngineError};

/// An hour of speech with one segment a file.
fn an_hour() -> AlignRequest {
    let files = spoken();
    let playlist = Playlist::new(files.iter().map(|file| file.samples()).collect(), 50);
    let starts = playlist.starts();
    let segments = starts
        .iter()
        .map(|&(at, file)| segment(seconds(at), seconds(at) + 2.0, &files[file].text))
        .collect();
    request(Arc::new(playlist), segments)
}

#[test]
fn a_cancelled_request_ends_within_a_second_and_the_model_goes_on() {
    let cancel = CancelFlag::new();
    let cancelled_at = Arc::new(Mutex::new(None));
    let (flag, at) = (cancel.clone(), Arc::clone(&cancelled_at));
    let control = Control {
        cancel,
        progress: Some(Arc::new(move |_| {
            at.lock().unwrap().get_or_insert_with(Instant::now);
            flag.cancel();
        })),
        ..Control::default()
    };
    let error = float()
        .align(AlignRequest {
            control,
            ..an_hour()
        })
        .unwrap_err();
    let took = cancelled_at.lock().unwrap().unwrap().elapsed();
    assert!(matches!(error, EngineError::Cancelled), "{error}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let file = &spoken()[0];
    assert_eq!(align_all(float(), file.samples(), &file.text).unaligned, 0);
}

#[test]
fn a_request_that_takes_too_long_is_ended_with_its_limit_named() {
    let time_limit = Some(Duration::from_millis(60));
    let error = float()
        .align(AlignRequest {
            time_limit,
            ..an_hour()
        })
        .unwrap_err();
    assert!(matches!(error, EngineError::TimeLimit { .. }), "{error}");
}

#[test]
fn progress_only_grows_and_ends_at_the_duration() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let progress = {
        let told = Arc::clone(&told);
        Arc::new(move |seconds: f64| told.lock().unwrap().push(seconds))
    };
    let file = &spoken()[0];
    let playlist = Playlist::new(vec![file.samples()], 20);
    let duration = playlist.duration();
    let segments = playlist
        .starts()
        .iter()
        .map(|&(at, _)| segment(seconds(at) + 0.7, seconds(at) + 1.4, "has a question"))
        .collect();
    let control = Control {
        cancel: CancelFlag::new(),
        progress: Some(progress),
        ..Control::default()
    };
    let request = AlignRequest {
        control,
        ..request(Arc::new(playlist), segments)
    };
    float().align(request).unwrap();
    let told = told.lock().unwrap();
    assert!(
        told.len() > 10 && told.windows(2).all(|pair| pair[0] <= pair[1]),
        "{told:?}"
    );
    assert_eq!(told.last(), Some(&duration));
}

#[test]
fn a_short_request_is_not_stuck_behind_a_long_one() {
    let cancel = CancelFlag::new();
    std::thread::scope(|scope| {
        let (started, wait) = std::sync::mpsc::channel();
        let control = Control {
            cancel: cancel.clone(),
            // Nobody waits for the later reports.
            progress: Some(Arc::new(move |_| {
                let _ = started.send(());
            })),
            ..Control::default()
        };
        let running = scope.spawn(move || {
            float().align(AlignRequest {
                control,
                ..an_hour()
            })
        });
        wait.recv().unwrap();
        let file = &spoken()[1];
        assert_eq!(align_all(float(), file.samples(), &file.text).unaligned, 0);
        assert!(!running.is_finished(), "an hour was aligned first");
        cancel.cancel();
        assert!(matches!(
            running.join().unwrap(),
            Err(EngineError::Cancelled)
        ));
    });
}

#[test]
fn a_language_the_model_does_not_know_is_refused_with_those_it_does() {
    let language = Some("de".to_owned());
    let request = AlignRequest {
        language,
        ..request(
            Arc::new(vec![0.0_f32; 16_000]),
            vec![segment(0.0, 1.0, "ja")],
        )
    };
    let error = float().align(request).unwrap_err().to_string();
    assert!(error.contains("aligns en, not de"), "{error}");
}

#[test]
fn audio_shorter_than_a_frame_is_answered() {
    let answer = align_all(float(), vec![0.1; 100], "a");
    assert_eq!(answer.segments[0].words.len(), 1);
    let nothing = float()
        .align(request(Arc::new(Vec::<f32>::new()), Vec::new()))
        .unwrap();
    assert!(nothing.segments.is_empty());
}
