//! What every registered engine must do, run on each model of the repository that an engine recognises.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use dalston_engines::registry::{Stage, engine_of};
use dalston_engines::{
    AudioSource, CancelFlag, Control, Device, ENGINES, EngineError, LoadOptions, LoadedModel,
    LongForm, Precision, Runtime, RuntimeOptions, Segment, SpeechRegion, TranscribeOptions,
    TranscribeRequest, TranscriberHandle, Transcription, WavSource,
};

struct Subject {
    name: String,
    model: TranscriberHandle,
}

/// Every bundled model with its engine; float, since int8 scales activations by what else is in the batch.
fn subjects() -> &'static [Subject] {
    static SUBJECTS: OnceLock<Vec<Subject>> = OnceLock::new();
    SUBJECTS.get_or_init(|| {
        let runtime = Runtime::load(&RuntimeOptions {
            device: Device::Cpu,
            library: None,
        })
        .unwrap();
        let options = LoadOptions {
            precision: Precision::Float,
            threads: 1,
            batch_size: 4,
        };
        let mut subjects = Vec::new();
        for folder in model_folders() {
            let Ok(engine) = engine_of(&folder) else {
                continue;
            };
            let loaded = (engine.load)(&runtime, &folder, &options).unwrap();
            let Some(model) = loaded.into_transcriber() else {
                continue;
            };
            subjects.push(Subject {
                name: format!("{} on {}", engine.id, folder.display()),
                model,
            });
        }
        for engine in ENGINES
            .iter()
            .filter(|engine| engine.stage == Stage::Transcribe)
        {
            let tested = subjects
                .iter()
                .any(|subject| subject.name.starts_with(engine.id));
            assert!(tested, "no bundled model for engine {}", engine.id);
        }
        subjects
    })
}

fn model_folders() -> Vec<PathBuf> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(models)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    folders
}

fn audio(name: &str) -> Arc<dyn AudioSource> {
    Arc::new(
        WavSource::open(
            &Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../tests/audio")
                .join(name),
        )
        .unwrap(),
    )
}

fn english() -> TranscribeOptions {
    TranscribeOptions {
        language: Some("en".to_owned()),
        word_timestamps: true,
        ..TranscribeOptions::default()
    }
}

fn transcribe(subject: &Subject, audio: Arc<dyn AudioSource>) -> Transcription {
    subject
        .model
        .transcribe(TranscribeRequest::new(audio, english()))
        .unwrap()
}

#[test]
fn silence_gives_no_words() {
    for subject in subjects() {
        let answer = transcribe(subject, Arc::new(vec![0.0_f32; 80_000]));
        assert!(
            answer.text.is_empty() && answer.segments.is_empty(),
            "{}: {answer:?}",
            subject.name
        );
        assert!((answer.duration - 5.0).abs() < 1e-9);
    }
}

#[test]
fn times_grow_and_stay_inside_the_audio_and_the_text_is_its_segments() {
    for subject in subjects() {
        let answer = transcribe(subject, audio("dialogues/dlg01.wav"));
        assert!(answer.segments.len() > 5, "{}", subject.name);
        for pair in answer.segments.windows(2) {
            assert!(pair[0].start <= pair[1].start, "{}: {pair:?}", subject.name);
        }
        for segment in &answer.segments {
            assert!(
                0.0 <= segment.start
                    && segment.start <= segment.end
                    && segment.end <= answer.duration
            );
            assert_eq!(segment.tokens.len(), segment.token_logprobs.len());
            assert!(segment.token_logprobs.iter().all(|logprob| *logprob <= 0.0));
            for word in &segment.words {
                assert!(
                    segment.start <= word.start
                        && word.start <= word.end
                        && word.end <= segment.end,
                    "{segment:?}"
                );
                assert!((0.0..=1.0).contains(&word.probability));
            }
            let words: String = segment
                .words
                .iter()
                .map(|word| word.text.as_str())
                .collect();
            assert_eq!(words, segment.text);
        }
        let joined: String = answer
            .segments
            .iter()
            .map(|segment| segment.text.as_str())
            .collect();
        assert_eq!(answer.text, joined.trim());
    }
}

#[test]
fn requests_that_share_batches_are_answered_as_if_alone() {
    let names: Vec<String> = (0..6)
        .map(|i| format!("utterances/dev-{i:05}.wav"))
        .collect();
    for subject in subjects() {
        let alone: Vec<Transcription> = names
            .iter()
            .map(|name| transcribe(subject, audio(name)))
            .collect();
        let together: Vec<Transcription> = std::thread::scope(|scope| {
            let running: Vec<_> = names
                .iter()
                .map(|name| scope.spawn(move || transcribe(subject, audio(name))))
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        for (alone, together) in alone.iter().zip(&together) {
            assert_eq!(alone.text, together.text, "{}", subject.name);
            let tokens = |answer: &Transcription| -> Vec<u32> {
                answer
                    .segments
                    .iter()
                    .flat_map(|segment| segment.tokens.clone())
                    .collect()
            };
            assert_eq!(tokens(alone), tokens(together), "{}", subject.name);
        }
    }
}

/// The dialogue over and over: hours of speech that take no memory.
struct Repeated {
    samples: Vec<f32>,
    times: u64,
}

impl AudioSource for Repeated {
    fn n_samples(&self) -> u64 {
        self.samples.len() as u64 * self.times
    }

    fn read(&self, start: u64, out: &mut [f32]) -> dalston_engines::Result<()> {
        for (at, sample) in (start..).zip(out) {
            let inside = at < self.n_samples();
            *sample = if inside {
                self.samples[(at % self.samples.len() as u64) as usize]
            } else {
                0.0
            };
        }
        Ok(())
    }
}

fn minutes_of_speech(minutes: u64) -> Arc<dyn AudioSource> {
    let source = audio("dialogues/dlg01.wav");
    let mut samples = vec![0.0; usize::try_from(source.n_samples()).unwrap()];
    source.read(0, &mut samples).unwrap();
    Arc::new(Repeated {
        samples,
        times: minutes,
    })
}

#[test]
fn a_cancelled_request_ends_within_a_second_and_the_model_goes_on() {
    for subject in subjects() {
        let cancel = CancelFlag::new();
        let cancelled_at = Arc::new(Mutex::new(None));
        let (flag, at) = (cancel.clone(), Arc::clone(&cancelled_at));
        // Cancelled from inside: as soon as the first progress is told.
        let progress = Arc::new(move |_| {
            at.lock().unwrap().get_or_insert_with(Instant::now);
            flag.cancel();
        });
        let request = TranscribeRequest {
            control: Control {
                cancel,
                progress: Some(progress),
                ..Control::default()
            },
            ..TranscribeRequest::new(minutes_of_speech(10), english())
        };
        let error = subject.model.transcribe(request).unwrap_err();
        let took = cancelled_at.lock().unwrap().unwrap().elapsed();
        assert!(
            matches!(error, EngineError::Cancelled),
            "{}: {error}",
            subject.name
        );
        assert!(took < Duration::from_secs(1), "{}: {took:?}", subject.name);
        assert!(
            !transcribe(subject, audio("utterances/dev-00000.wav"))
                .text
                .is_empty()
        );
    }
}

#[test]
fn a_request_that_takes_too_long_is_ended_with_its_limit_named() {
    for subject in subjects() {
        let request = TranscribeRequest {
            time_limit: Some(Duration::from_millis(60)),
            ..TranscribeRequest::new(minutes_of_speech(10), english())
        };
        let error = subject.model.transcribe(request).unwrap_err();
        assert!(
            matches!(error, EngineError::TimeLimit { .. }),
            "{}: {error}",
            subject.name
        );
    }
}

#[test]
fn progress_only_grows_and_ends_at_the_duration() {
    for subject in subjects() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let progress = {
            let told = Arc::clone(&told);
            Arc::new(move |seconds: f64| told.lock().unwrap().push(seconds))
        };
        let request = TranscribeRequest {
            control: Control {
                cancel: CancelFlag::new(),
                progress: Some(progress),
                ..Control::default()
            },
            ..TranscribeRequest::new(minutes_of_speech(3), english())
        };
        let duration = subject.model.transcribe(request).unwrap().duration;
        let told = told.lock().unwrap();
        assert!(
            told.len() > 2 && told.windows(2).all(|pair| pair[0] <= pair[1]),
            "{}: {told:?}",
            subject.name
        );
        assert_eq!(*told.last().unwrap(), duration);
    }
}

#[test]
fn what_is_told_early_is_what_the_answer_begins_with() {
    for subject in subjects() {
        let regions = (0..6).map(|at| SpeechRegion {
            start: f64::from(at) * 20.0,
            end: f64::from(at) * 20.0 + 19.0,
        });
        let batched = TranscribeOptions {
            long_form: LongForm::Batched(regions.collect()),
            ..english()
        };
        for options in [english(), batched] {
            let told = Arc::new(Mutex::new(Vec::new()));
            let settled = {
                let told = Arc::clone(&told);
                Arc::new(move |segments: &[Segment]| {
                    told.lock().unwrap().extend_from_slice(segments);
                })
            };
            let request = TranscribeRequest {
                control: Control {
                    settled: Some(settled),
                    ..Control::default()
                },
                ..TranscribeRequest::new(minutes_of_speech(2), options)
            };
            let answer = subject.model.transcribe(request).unwrap();
            let told = told.lock().unwrap();
            assert!(!told.is_empty(), "{} told nothing", subject.name);
            let texts = |segments: &[Segment]| -> Vec<String> {
                segments
                    .iter()
                    .map(|segment| segment.text.clone())
                    .collect()
            };
            assert_eq!(
                texts(&told),
                texts(&answer.segments[..told.len()]),
                "{}",
                subject.name
            );
        }
    }
}

#[test]
fn a_short_file_is_not_stuck_behind_a_long_one() {
    for subject in subjects() {
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
            let long = TranscribeRequest {
                control,
                ..TranscribeRequest::new(minutes_of_speech(60), english())
            };
            let running = scope.spawn(move || subject.model.transcribe(long));
            wait.recv().unwrap();
            assert!(
                !transcribe(subject, audio("utterances/dev-00001.wav"))
                    .text
                    .is_empty()
            );
            assert!(
                !running.is_finished(),
                "{}: an hour of speech was done first",
                subject.name
            );
            cancel.cancel();
            assert!(matches!(
                running.join().unwrap(),
                Err(EngineError::Cancelled)
            ));
        });
    }
}

#[test]
fn every_engine_of_the_other_stages_has_a_bundled_model_that_it_describes_and_loads() {
    let runtime = Runtime::load(&RuntimeOptions {
        device: Device::Cpu,
        library: None,
    })
    .unwrap();
    let options = LoadOptions {
        precision: Precision::Auto,
        threads: 1,
        batch_size: 4,
    };
    for engine in ENGINES
        .iter()
        .filter(|engine| engine.stage != Stage::Transcribe)
    {
        let folder = model_folders()
            .into_iter()
            .find(|folder| engine_of(folder).is_ok_and(|found| found.id == engine.id))
            .unwrap_or_else(|| panic!("no bundled model for engine {}", engine.id));
        let description = (engine.describe)(&folder, Precision::Auto, Device::Cpu).unwrap();
        assert_eq!(
            (description.engine, description.stage),
            (engine.id, engine.stage)
        );
        // Each engine gives its own kind of model, and a component is no task's model.
        let loaded = (engine.load)(&runtime, &folder, &options).unwrap();
        assert!(loaded.weight_bytes() > 0 && description.weight_bytes > 0);
        let kind = match loaded {
            LoadedModel::Transcriber(_) => "transcriber",
            LoadedModel::Aligner(_) => "wav2vec2",
            LoadedModel::SpeakerSegmentation(_) => "pyannote",
            LoadedModel::SpeakerEmbedding(_) => "wespeaker",
        };
        assert_eq!(kind, engine.id);
        assert_eq!(description.component, engine.id == "wespeaker");
    }
}
