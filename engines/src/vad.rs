//! Silero VAD: where a file holds speech, and where it does not.
//!
//! Probabilities come from the 16 kHz sequence model (64 samples of context and 512 new ones per frame of 32 ms, state carried
//! from call to call); [`SpeechTimestamps`] turns them into spans exactly as `get_speech_timestamps` of silero-vad 6 does.
//! Audio and probabilities are streamed, so memory does not grow with the length of the file.

use std::path::Path;

use ort::session::Session;
use ort::value::TensorRef;
use serde::{Deserialize, Serialize};

use crate::audio_source::{AudioSource, SAMPLE_RATE};
use crate::error::{EngineError, Result};
use crate::session::{Runtime, SessionOptions};
use crate::transcription::{Control, SpeechRegion};

/// The model's file in its folder.
const MODEL: &str = "silero_vad_16k_sequence.onnx";
/// New samples per frame.
pub const FRAME: usize = 512;
/// Samples of the frame before that the model sees again.
const CONTEXT: usize = 64;
/// Frames per model call: about 16 s of audio.
const FRAMES_PER_CALL: usize = 512;
/// Size of each of the two state vectors.
const STATE: usize = 128;

/// A stretch of speech in samples, `start < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeechSpan {
    /// First sample.
    pub start: u64,
    /// One past the last sample.
    pub end: u64,
}

impl From<SpeechSpan> for SpeechRegion {
    fn from(span: SpeechSpan) -> Self {
        let seconds = |sample: u64| sample as f64 / f64::from(SAMPLE_RATE);
        Self {
            start: seconds(span.start),
            end: seconds(span.end),
        }
    }
}

impl From<SpeechRegion> for SpeechSpan {
    fn from(region: SpeechRegion) -> Self {
        let sample = |seconds: f64| (seconds * f64::from(SAMPLE_RATE)).round() as u64;
        Self {
            start: sample(region.start),
            end: sample(region.end),
        }
    }
}

/// How probabilities become speech; names and defaults are those of `get_speech_timestamps`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VadOptions {
    /// Speech starts at this probability.
    pub threshold: f64,
    /// Speech ends below this one; `None` is `threshold − 0.15`, at least 0.01.
    pub neg_threshold: Option<f64>,
    /// Shorter speech is dropped, in ms.
    pub min_speech_duration_ms: f64,
    /// Speech is cut where it gets longer than this, in seconds; infinite by default.
    pub max_speech_duration_s: f64,
    /// Shorter silence does not end speech, in ms.
    pub min_silence_duration_ms: f64,
    /// Kept on both sides of speech, in ms.
    pub speech_pad_ms: f64,
    /// Shortest silence a cut at `max_speech_duration_s` may fall into, in ms.
    pub min_silence_at_max_speech_ms: f64,
}

impl Default for VadOptions {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            neg_threshold: None,
            min_speech_duration_ms: 250.0,
            max_speech_duration_s: f64::INFINITY,
            min_silence_duration_ms: 100.0,
            speech_pad_ms: 30.0,
            min_silence_at_max_speech_ms: 98.0,
        }
    }
}

/// The voice activity model with its session.
#[derive(Debug)]
pub struct SileroVad {
    session: Session,
}

impl SileroVad {
    /// Loads the model from its folder. It is small, so it stays on the CPU and wants one thread.
    ///
    /// # Errors
    /// [`EngineError::ModelFileMissing`] if the folder is not a Silero VAD model, [`EngineError::Graph`] if it cannot be loaded.
    pub fn load(runtime: &Runtime, folder: &Path) -> Result<Self> {
        let path = folder.join(MODEL);
        if !path.is_file() {
            return Err(EngineError::ModelFileMissing {
                folder: folder.to_owned(),
                file: MODEL.into(),
                remedy: "use the silero-vad folder that comes with the program".into(),
            });
        }
        let options = SessionOptions {
            cpu_only: true,
            ..SessionOptions::default()
        };
        Ok(Self {
            session: runtime.session(&path, &options)?,
        })
    }

    /// Finds the speech in `audio`.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] within one model call (16 s of audio), [`EngineError::Audio`] if the audio cannot be read,
    /// [`EngineError::Graph`] if the model fails.
    pub fn speech(
        &mut self,
        audio: &dyn AudioSource,
        options: &VadOptions,
        control: &Control,
    ) -> Result<Vec<SpeechSpan>> {
        let mut timestamps = SpeechTimestamps::new(options);
        self.probabilities(audio, control, &mut |probability| {
            timestamps.push(probability);
        })?;
        Ok(timestamps.finish(audio.n_samples()))
    }

    /// Gives `sink` the probability of speech of every frame of 512 samples, the last one padded with zeros.
    ///
    /// # Errors
    /// As [`SileroVad::speech`].
    pub fn probabilities(
        &mut self,
        audio: &dyn AudioSource,
        control: &Control,
        sink: &mut dyn FnMut(f32),
    ) -> Result<()> {
        let n_samples = audio.n_samples();
        let frames = n_samples.div_ceil(FRAME as u64);
        let mut h = [0.0; STATE];
        let mut c = [0.0; STATE];
        // `samples` starts with the context of its first frame: zeros at the start of the file.
        let mut samples = vec![0.0; CONTEXT + FRAMES_PER_CALL * FRAME];
        let mut input = Vec::with_capacity(FRAMES_PER_CALL * (CONTEXT + FRAME));
        let mut done = 0;
        while done < frames {
            if control.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let count = usize::try_from(frames - done)
                .map_or(FRAMES_PER_CALL, |left| left.min(FRAMES_PER_CALL));
            let new = CONTEXT..CONTEXT + count * FRAME;
            audio.read(done * FRAME as u64, &mut samples[new.clone()])?;
            input.clear();
            for frame in 0..count {
                input.extend_from_slice(&samples[frame * FRAME..][..CONTEXT + FRAME]);
            }
            for probability in self.run(&input, count, &mut h, &mut c)? {
                sink(probability);
            }
            samples.copy_within(new.end - CONTEXT..new.end, 0);
            done += count as u64;
            let seconds = (done * FRAME as u64).min(n_samples) as f64 / f64::from(SAMPLE_RATE);
            control.report(seconds);
        }
        Ok(())
    }

    /// One model call: `input` is `[frames, 576]`; both states are `[1, 1, 128]` and are replaced.
    fn run(
        &mut self,
        input: &[f32],
        frames: usize,
        h: &mut [f32; STATE],
        c: &mut [f32; STATE],
    ) -> Result<Vec<f32>> {
        let failed = |error: ort::Error| EngineError::graph("running silero-vad", error);
        let outputs = self
            .session
            .run(ort::inputs![
                "input" => TensorRef::from_array_view(([frames, CONTEXT + FRAME], input)).map_err(failed)?,
                "h" => TensorRef::from_array_view(([1_usize, 1, STATE], &h[..])).map_err(failed)?,
                "c" => TensorRef::from_array_view(([1_usize, 1, STATE], &c[..])).map_err(failed)?,
            ])
            .map_err(failed)?;
        let floats = |name: &str, expected: usize| {
            let value = outputs.get(name).ok_or_else(|| {
                EngineError::graph("running silero-vad", format!("there is no output {name}"))
            })?;
            let (_, values) = value.try_extract_tensor::<f32>().map_err(failed)?;
            if values.len() != expected {
                let found = values.len();
                return Err(EngineError::graph(
                    "running silero-vad",
                    format!("{name} has {found} values, {expected} expected"),
                ));
            }
            Ok(values.to_vec())
        };
        h.copy_from_slice(&floats("hn", STATE)?);
        c.copy_from_slice(&floats("cn", STATE)?);
        floats("speech_probs", frames)
    }
}

/// The state machine of `get_speech_timestamps`, fed one probability at a time.
#[derive(Debug)]
pub struct SpeechTimestamps {
    threshold: f64,
    neg_threshold: f64,
    min_speech: f64,
    max_speech: f64,
    min_silence: f64,
    min_silence_at_max_speech: f64,
    pad: f64,
    frame: u64,
    /// Start of the speech that is open.
    start: Option<u64>,
    /// Where the silence began that may end the open speech.
    temp_end: Option<u64>,
    /// The longest silence inside the open speech, where it is cut if it gets too long: (start, length).
    best_cut: Option<(u64, u64)>,
    spans: Vec<SpeechSpan>,
}

impl SpeechTimestamps {
    /// Starts at the beginning of a file.
    pub fn new(options: &VadOptions) -> Self {
        let samples = |ms: f64| f64::from(SAMPLE_RATE) * ms / 1_000.0;
        let pad = samples(options.speech_pad_ms);
        Self {
            threshold: options.threshold,
            neg_threshold: options
                .neg_threshold
                .unwrap_or_else(|| (options.threshold - 0.15).max(0.01)),
            min_speech: samples(options.min_speech_duration_ms),
            max_speech: f64::from(SAMPLE_RATE) * options.max_speech_duration_s
                - FRAME as f64
                - 2.0 * pad,
            min_silence: samples(options.min_silence_duration_ms),
            min_silence_at_max_speech: samples(options.min_silence_at_max_speech_ms),
            pad,
            frame: 0,
            start: None,
            temp_end: None,
            best_cut: None,
            spans: Vec::new(),
        }
    }

    /// Takes the probability of the next frame.
    pub fn push(&mut self, probability: f32) {
        let now = self.frame * FRAME as u64;
        self.frame += 1;
        let probability = f64::from(probability);
        if probability >= self.threshold {
            if let Some(silence) = self.temp_end.take() {
                let length = now - silence;
                if length as f64 > self.min_silence_at_max_speech
                    && self.best_cut.is_none_or(|(_, longest)| length > longest)
                {
                    self.best_cut = Some((silence, length));
                }
            }
            if self.start.is_none() {
                self.start = Some(now);
                return;
            }
        }
        let Some(mut start) = self.start else { return };
        if (now - start) as f64 > self.max_speech {
            let Some((end, silence)) = self.best_cut else {
                self.close(start, now);
                return;
            };
            self.close(start, end);
            start = end + silence;
            self.start = Some(start);
        }
        if probability < self.neg_threshold {
            let end = *self.temp_end.get_or_insert(now);
            if (now - end) as f64 >= self.min_silence {
                if end.saturating_sub(start) as f64 > self.min_speech {
                    self.spans.push(SpeechSpan { start, end });
                }
                self.reset();
            }
        }
    }

    fn close(&mut self, start: u64, end: u64) {
        self.spans.push(SpeechSpan { start, end });
        self.reset();
    }

    fn reset(&mut self) {
        self.start = None;
        self.temp_end = None;
        self.best_cut = None;
    }

    /// The speech of a file of `n_samples`, padded, in order.
    pub fn finish(mut self, n_samples: u64) -> Vec<SpeechSpan> {
        if let Some(start) = self
            .start
            .filter(|start| n_samples.saturating_sub(*start) as f64 > self.min_speech)
        {
            self.spans.push(SpeechSpan {
                start,
                end: n_samples,
            });
        }
        let later = |sample: u64| ((sample as f64 + self.pad).min(n_samples as f64)) as u64;
        let sooner = |sample: u64| (sample as f64 - self.pad).max(0.0) as u64;
        let count = self.spans.len();
        for index in 0..count {
            if index == 0 {
                self.spans[0].start = sooner(self.spans[0].start);
            }
            let end = self.spans[index].end;
            let Some(next) = self.spans.get(index + 1).map(|next| next.start) else {
                self.spans[index].end = later(end);
                break;
            };
            let silence = next.saturating_sub(end);
            if (silence as f64) < 2.0 * self.pad {
                self.spans[index].end = end + silence / 2;
                self.spans[index + 1].start = next - silence / 2;
            } else {
                self.spans[index].end = later(end);
                self.spans[index + 1].start = sooner(next);
            }
        }
        self.spans
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::path::PathBuf;

    use super::*;
    use crate::audio_source::WavSource;
    use crate::session::RuntimeOptions;
    use crate::transcription::CancelFlag;

    const CLIPS: [&str; 3] = ["dlg01", "dlg03", "noise_utt_noise"];

    fn model() -> SileroVad {
        let options = RuntimeOptions {
            device: crate::Device::Cpu,
            library: None,
        };
        SileroVad::load(&Runtime::load(&options).unwrap(), &folder()).unwrap()
    }

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/silero-vad")
    }

    /// A clip and what silero-vad 6.2.3 makes of it.
    fn golden(clip: &str) -> (WavSource, serde_json::Value) {
        let text = std::fs::read_to_string(folder().join(format!("golden/{clip}.json"))).unwrap();
        let beside = folder().join(format!("golden/{clip}.wav"));
        let dialogue = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../tests/audio/dialogues/{clip}.wav"));
        let path = if beside.exists() { beside } else { dialogue };
        (
            WavSource::open(&path).unwrap(),
            serde_json::from_str(&text).unwrap(),
        )
    }

    fn options(params: &serde_json::Value) -> VadOptions {
        let default = VadOptions::default();
        let number = |name: &str, default: f64| {
            params
                .get(name)
                .map_or(default, |value| value.as_f64().unwrap())
        };
        VadOptions {
            threshold: number("threshold", default.threshold),
            min_speech_duration_ms: number(
                "min_speech_duration_ms",
                default.min_speech_duration_ms,
            ),
            max_speech_duration_s: number("max_speech_duration_s", default.max_speech_duration_s),
            min_silence_duration_ms: number(
                "min_silence_duration_ms",
                default.min_silence_duration_ms,
            ),
            speech_pad_ms: number("speech_pad_ms", default.speech_pad_ms),
            ..default
        }
    }

    fn pairs(spans: &[SpeechSpan]) -> serde_json::Value {
        spans
            .iter()
            .map(|span| serde_json::json!([span.start, span.end]))
            .collect()
    }

    #[test]
    fn spans_equal_the_reference_to_the_sample_for_every_clip_and_parameter_set() {
        let mut vad = model();
        for clip in CLIPS {
            let (audio, golden) = golden(clip);
            assert_eq!(golden["samples"], audio.n_samples());
            let sets = golden["timestamps"].as_object().unwrap();
            assert_eq!(sets.len(), 4);
            for (name, set) in sets {
                let found = vad
                    .speech(&audio, &options(&set["params"]), &Control::default())
                    .unwrap();
                assert_eq!(pairs(&found), set["speech"], "{clip} {name}");
            }
        }
    }

    #[test]
    fn probabilities_equal_the_reference() {
        let mut vad = model();
        for clip in CLIPS {
            let (audio, golden) = golden(clip);
            let mut found = Vec::new();
            vad.probabilities(&audio, &Control::default(), &mut |p| found.push(p))
                .unwrap();
            let expected = golden["probs"].as_array().unwrap();
            assert_eq!(found.len(), expected.len());
            for (frame, (found, expected)) in found.iter().zip(expected).enumerate() {
                let difference = (f64::from(*found) - expected.as_f64().unwrap()).abs();
                assert!(
                    difference < 2e-5,
                    "{clip} frame {frame}: off by {difference}"
                );
            }
        }
    }

    #[test]
    fn a_raised_flag_stops_the_search_and_progress_reaches_the_end() {
        let (audio, _) = golden("dlg01");
        let control = Control {
            cancel: CancelFlag::new(),
            ..Control::default()
        };
        control.cancel.cancel();
        let stopped = model().speech(&audio, &VadOptions::default(), &control);
        assert!(matches!(stopped, Err(EngineError::Cancelled)));

        let (sender, seconds) = std::sync::mpsc::channel();
        let sender = std::sync::Mutex::new(sender);
        let control = Control {
            cancel: CancelFlag::new(),
            progress: Some(std::sync::Arc::new(move |done| {
                sender.lock().unwrap().send(done).unwrap();
            })),
            ..Control::default()
        };
        model()
            .speech(&audio, &VadOptions::default(), &control)
            .unwrap();
        let seen: Vec<f64> = seconds.try_iter().collect();
        assert!(seen.is_sorted());
        assert_eq!(*seen.last().unwrap(), audio.duration());
    }

    #[test]
    fn audio_without_samples_or_speech_has_no_spans() {
        let mut vad = model();
        for audio in [Vec::new(), vec![0.0; 1], vec![0.0; 48_000]] {
            let spans = vad
                .speech(&audio, &VadOptions::default(), &Control::default())
                .unwrap();
            assert_eq!(spans, []);
        }
    }

    #[test]
    fn speech_that_never_pauses_is_cut_at_the_limit() {
        let mut timestamps = SpeechTimestamps::new(&VadOptions {
            max_speech_duration_s: 10.0,
            ..VadOptions::default()
        });
        let frames = 2_000;
        (0..frames).for_each(|_| timestamps.push(0.9));
        let spans = timestamps.finish(frames * FRAME as u64);
        assert!(spans.len() > 5);
        assert!(
            spans.iter().all(|span| span.end - span.start <= 160_000),
            "{spans:?}"
        );
    }
}
