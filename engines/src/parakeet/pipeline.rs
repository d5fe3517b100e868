//! From audio to a transcription: takes windows from several requests, encodes those of about equal length together,
//! decodes all of them in step, and puts the words back where they belong.

use std::sync::Arc;

use ndarray::{Array2, Array3, Axis};

use super::boosting::Phrases;
use super::encoder::Encoder;
use super::features::{HOP, NemoFeatures};
use super::folder::ParakeetFolder;
use super::token::Token;
use super::transducer::{greedy, network::Network};
use super::windows::{Walk, Window};
use super::words::Segmenter;
use super::{ctc, words};
use crate::audio_source::{AudioSource, SAMPLE_RATE};
use crate::error::{EngineError, Result};
use crate::session::RunGuard;
use crate::transcriber::BatchTranscriber;
use crate::transcription::{CancelFlag, Segment, Task, TranscribeOptions, Transcription};

/// Frames below which a window is too short to be normalised.
const FEWEST_FRAMES: usize = 4;
/// Seconds of audio in a batch for each of its windows: a batch of utterances is full, long windows share it with fewer,
/// which bounds its memory and the time between two reports of progress.
const SECONDS_PER_WINDOW: f64 = 15.0;
/// Windows are encoded together when the shortest has at least this share of the longest's frames.
const SAME_LENGTH: f64 = 0.8;
/// A rewritten encoder takes so many times the frames of a published one: it needs less memory for each, and shares
/// positions and the way of weights to the processor.
const MIXED: usize = 4;

/// How much is decoded at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PipelineOptions {
    /// Threads of a model call.
    pub threads: usize,
    /// Windows in one batch.
    pub batch_size: usize,
    /// Feature frames in one call of the encoder, over all its windows; one window is always taken.
    pub frames_at_once: usize,
    /// Longest window, seconds.
    pub longest_s: f64,
}

/// What turns encoder states into tokens.
pub(super) enum Decoder {
    /// States are log-probabilities already.
    Ctc,
    /// A prediction and a joint network.
    Transducer(Box<Network>),
}

/// A Parakeet model ready to transcribe.
pub struct Parakeet {
    encoder: Encoder,
    decoder: Decoder,
    folder: ParakeetFolder,
    features: NemoFeatures,
    options: PipelineOptions,
    weight_bytes: u64,
    /// Request that contributes the first window of the next batch, so that none waits behind a longer one.
    turn: usize,
}

/// One request in progress.
pub struct ParakeetJob {
    walk: Walk,
    language: String,
    segmenter: Segmenter,
    phrases: Option<Phrases>,
    cancel: CancelFlag,
    warnings: Vec<String>,
    /// What stopped this request alone.
    failure: Option<EngineError>,
}

/// A window of a batch.
struct Pick {
    job: usize,
    window: Window,
}

impl Parakeet {
    pub(super) fn new(
        encoder: Encoder,
        decoder: Decoder,
        folder: ParakeetFolder,
        options: PipelineOptions,
    ) -> Self {
        let features = NemoFeatures::new(encoder.n_mels().unwrap_or(folder.n_mels));
        let weight_bytes = encoder.weight_bytes()
            + match &decoder {
                Decoder::Ctc => 0,
                Decoder::Transducer(network) => network.bytes(),
            };
        Self {
            encoder,
            decoder,
            folder,
            features,
            options,
            weight_bytes,
            turn: 0,
        }
    }

    /// Takes windows in turn from each request until the batch is full or none has more.
    fn pick(&mut self, jobs: &mut [&mut ParakeetJob]) -> Vec<Pick> {
        let (n_jobs, batch_size) = (jobs.len(), self.options.batch_size.max(1));
        let mut picks = Vec::new();
        let mut exhausted = vec![false; n_jobs];
        let mut seconds = 0.0;
        let first = self.turn;
        self.turn = self.turn.wrapping_add(1);
        for at in (0..n_jobs * batch_size).map(|turn| (first % n_jobs + turn) % n_jobs) {
            let is_full =
                picks.len() == batch_size || seconds >= SECONDS_PER_WINDOW * batch_size as f64;
            if is_full || exhausted.iter().all(|done| *done) {
                break;
            }
            let job = &mut *jobs[at];
            if exhausted[at] || job.failure.is_some() || job.cancel.is_cancelled() {
                exhausted[at] = true;
                continue;
            }
            match job.walk.next_window() {
                Ok(Some(window)) => {
                    seconds += window.seconds().end - window.seconds().start;
                    picks.push(Pick { job: at, window });
                }
                Ok(None) => exhausted[at] = true,
                Err(error) => {
                    job.failure = Some(error);
                    exhausted[at] = true;
                }
            }
        }
        picks
    }

    /// Tokens of each pick.
    fn decode(
        &mut self,
        jobs: &mut [&mut ParakeetJob],
        picks: &[Pick],
        run: &RunGuard,
    ) -> Result<Vec<Vec<Token>>> {
        let frames: Vec<usize> = picks
            .iter()
            .map(|pick| NemoFeatures::n_frames(pick.window.samples.end - pick.window.samples.start))
            .collect();
        let mut order: Vec<usize> = (0..picks.len())
            .filter(|&at| frames[at] >= FEWEST_FRAMES)
            .collect();
        order.sort_by_key(|&at| std::cmp::Reverse(frames[at]));
        let mut states = Vec::with_capacity(order.len());
        let mut from = 0;
        while from < order.len() {
            let longest = frames[order[from]];
            let (at_once, shortest) = if self.encoder.mixes_lengths() {
                (self.options.frames_at_once.saturating_mul(MIXED), 0.0)
            } else {
                (self.options.frames_at_once, SAME_LENGTH * longest as f64)
            };
            let alike = order[from..]
                .iter()
                .take((at_once / longest).max(1))
                .take_while(|&&at| frames[at] as f64 >= shortest)
                .count();
            self.encode(
                jobs,
                picks,
                &order[from..from + alike],
                longest,
                run,
                &mut states,
            )?;
            from += alike;
        }
        let mut tokens = vec![Vec::new(); picks.len()];
        match &self.decoder {
            Decoder::Ctc => {
                let blank = self.folder.vocabulary.blank();
                for (at, states) in order.iter().zip(&states) {
                    run.check()?;
                    tokens[*at] =
                        ctc::decode(states.view(), blank, jobs[picks[*at].job].phrases.as_ref());
                }
            }
            Decoder::Transducer(network) => {
                let windows: Vec<greedy::Window<'_>> = order
                    .iter()
                    .zip(&states)
                    .map(|(at, states)| greedy::Window {
                        states: states.as_slice().unwrap_or_default(),
                        n_frames: states.nrows(),
                        phrases: jobs[picks[*at].job].phrases.as_ref(),
                    })
                    .collect();
                let decoded = greedy::decode(network, &windows, self.folder.max_symbols, run)?;
                for (at, decoded) in order.iter().zip(decoded) {
                    tokens[*at] = decoded;
                }
            }
        }
        Ok(tokens)
    }

    /// Encodes some picks of about `n_frames` frames; appends the states of each, `[frames, width]`.
    fn encode(
        &mut self,
        jobs: &mut [&mut ParakeetJob],
        picks: &[Pick],
        chosen: &[usize],
        n_frames: usize,
        run: &RunGuard,
        states: &mut Vec<Array2<f32>>,
    ) -> Result<()> {
        let mut features = Array3::zeros((chosen.len(), self.features.n_mels(), n_frames));
        let mut lengths = Vec::with_capacity(chosen.len());
        for (&at, out) in chosen.iter().zip(features.axis_iter_mut(Axis(0))) {
            run.check()?;
            let pick = &picks[at];
            let job = &mut *jobs[pick.job];
            let samples = pick.window.samples.clone();
            let computed = self.features.compute(
                &*job.walk.audio,
                samples.start,
                samples.end - samples.start,
                out,
            );
            lengths.push(computed.unwrap_or_else(|error| {
                // The others in the batch go on.
                job.failure = Some(error);
                0
            }));
        }
        if lengths.iter().all(|&n| n == 0) {
            states.extend(chosen.iter().map(|_| Array2::zeros((0, 0))));
            return Ok(());
        }
        states.extend(self.encoder.encode(features.view(), &lengths, run)?);
        Ok(())
    }

    fn check_language(&self, asked: Option<&String>) -> Result<String> {
        let known = &self.folder.languages;
        match asked {
            Some(code) if known.contains(code) => Ok(code.clone()),
            Some(code) => Err(EngineError::InvalidRequest(format!(
                "this model does not know the language {code:?}; it knows {}",
                known.join(", ")
            ))),
            None if known.len() == 1 => Ok(known[0].clone()),
            // It writes down what it hears without saying which of its languages that is.
            None => Ok("und".to_owned()),
        }
    }
}

impl BatchTranscriber for Parakeet {
    type Job = ParakeetJob;

    fn begin(
        &self,
        audio: Arc<dyn AudioSource>,
        options: TranscribeOptions,
        cancel: CancelFlag,
    ) -> Result<ParakeetJob> {
        if options.task == Task::Translate {
            return Err(EngineError::InvalidRequest(
                "this model cannot translate; choose a multilingual Whisper model".to_owned(),
            ));
        }
        let language = self.check_language(options.language.as_ref())?;
        let mut warnings = Vec::new();
        if options
            .prompt
            .as_deref()
            .is_some_and(|prompt| !prompt.trim().is_empty())
        {
            warnings.push(
                "this model takes no prompt: it was left out; name words to listen for as vocabulary".to_owned(),
            );
        }
        let wanted = options
            .vocabulary
            .iter()
            .any(|phrase| !phrase.trim().is_empty());
        let phrases = Phrases::new(&options.vocabulary, &self.folder.vocabulary);
        if wanted && phrases.is_none() {
            warnings
                .push("this model has no letters for the vocabulary: it was left out".to_owned());
        }
        Ok(ParakeetJob {
            walk: Walk::new(
                audio,
                &options.long_form,
                options.part,
                self.options.batch_size,
                self.options.longest_s,
            )?,
            language,
            segmenter: Segmenter::new(options.word_timestamps),
            phrases,
            cancel,
            warnings,
            failure: None,
        })
    }

    fn step(&mut self, jobs: &mut [&mut ParakeetJob], run: &RunGuard) -> Result<()> {
        let picks = self.pick(jobs);
        if picks.is_empty() {
            return Ok(());
        }
        match self.decode(jobs, &picks, run) {
            Ok(decoded) => {
                let frame_s = (self.folder.subsampling * HOP) as f64 / f64::from(SAMPLE_RATE);
                for (pick, tokens) in picks.into_iter().zip(decoded) {
                    let words = words::words(
                        &tokens,
                        &self.folder.vocabulary,
                        frame_s,
                        pick.window.seconds(),
                    );
                    jobs[pick.job].walk.accept(pick.window, words);
                }
                Ok(())
            }
            Err(error) => {
                picks.iter().for_each(|pick| jobs[pick.job].walk.give_up());
                Err(error)
            }
        }
    }

    fn is_done(job: &ParakeetJob) -> bool {
        job.failure.is_some() || job.walk.is_done()
    }

    fn progress(job: &ParakeetJob) -> f64 {
        job.walk.progress()
    }

    fn settled(job: &mut ParakeetJob) -> Vec<Segment> {
        for word in job.walk.take_certain() {
            job.segmenter.push(word);
        }
        job.segmenter.news()
    }

    fn finish(&self, job: ParakeetJob) -> Result<Transcription> {
        if let Some(failure) = job.failure {
            return Err(failure);
        }
        let duration = job.walk.audio.duration();
        let mut segmenter = job.segmenter;
        for word in job.walk.finish() {
            segmenter.push(word);
        }
        let segments = segmenter.finish();
        let text: String = segments
            .iter()
            .map(|segment| segment.text.as_str())
            .collect();
        Ok(Transcription {
            text: text.trim().to_owned(),
            language: job.language,
            language_probability: None,
            duration,
            segments,
            warnings: job.warnings,
        })
    }

    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }
}
