//! From audio to a transcription: takes windows from the walks of several requests, encodes and decodes them in one
//! batch, and puts the segments and words back where they belong.

mod decoded;
mod doubt;

use std::sync::Arc;

use ndarray::{Array3, Axis};

use crate::audio_source::{AudioSource, SAMPLE_RATE};
use crate::error::{EngineError, Result};
use crate::mel::LogMel;
use crate::model_folder::ModelFolder;
use crate::session::RunGuard;
use crate::transcriber::BatchTranscriber;
use crate::transcription::{CancelFlag, Segment, TranscribeOptions, Transcription};
use crate::whisper::backend::Backend;
use crate::whisper::decoding::{DecodeJob, FallbackPolicy, decode_with_fallback};
use crate::whisper::language::{Detected, detect_language};
use crate::whisper::longform::{Walk, Window, WindowShape};
use crate::whisper::prompt::{Prompt, Rules};
use crate::whisper::timing::{TextAttention, align_words};
use crate::whisper::tokenizer::Tokenizer;
use decoded::Decoded;

/// The language of text and of everything else an English-only model hears.
const ENGLISH: &str = "en";

/// How much is decoded at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipelineOptions {
    /// Threads of feature extraction.
    pub threads: usize,
    /// Sequences in one decode: windows at beam size 1.
    pub batch_size: usize,
}

/// A Whisper model ready to transcribe, over any backend.
pub struct Whisper<B> {
    backend: B,
    folder: ModelFolder,
    tokenizer: Tokenizer,
    log_mel: LogMel,
    rules: Rules,
    options: PipelineOptions,
    /// Request that contributes the first window of the next batch, so that none waits behind a longer one.
    turn: usize,
}

/// One request in progress.
pub struct WhisperJob {
    walk: Walk,
    options: TranscribeOptions,
    prompt: Prompt,
    language: Option<String>,
    language_probability: Option<f32>,
    /// Starts of the windows that were decoded without prompt and vocabulary in the end, seconds.
    unprompted: Vec<f64>,
    cancel: CancelFlag,
    /// What stopped this request alone.
    failure: Option<EngineError>,
}

/// A window of a batch.
struct Pick {
    job: usize,
    window: Window,
}

impl WhisperJob {
    /// Whether windows of this request can be decoded now.
    fn is_ready(&mut self, log_mel: &LogMel, threads: usize) -> bool {
        if self.failure.is_some() || self.cancel.is_cancelled() {
            return false;
        }
        match self.walk.listen(log_mel, threads) {
            Ok(ready) => ready,
            Err(error) => {
                self.failure = Some(error);
                false
            }
        }
    }
}

impl<B: Backend> Whisper<B> {
    /// Joins a backend with what its folder says about it.
    ///
    /// # Errors
    /// [`EngineError::ModelFileMissing`] or [`EngineError::ModelInvalid`] for the tokenizer's files.
    pub fn new(backend: B, folder: ModelFolder, options: PipelineOptions) -> Result<Self> {
        let tokenizer = Tokenizer::read(&folder.path, folder.tokens.clone())?;
        let features = folder.features;
        let log_mel = LogMel::new(features.n_mels, features.n_fft, features.hop_length);
        let rules = Rules::new(&folder, &tokenizer);
        Ok(Self {
            backend,
            folder,
            tokenizer,
            log_mel,
            rules,
            options,
            turn: 0,
        })
    }

    fn shape(&self) -> WindowShape {
        WindowShape {
            n_frames: self.folder.dims.n_frames,
            hop_length: self.folder.features.hop_length,
        }
    }

    /// Takes windows in turn from each request until the batch is full or none has more.
    fn pick(&mut self, jobs: &mut [&mut WhisperJob]) -> Vec<Pick> {
        let mut picks = Vec::new();
        let mut n_rows = 0;
        let n_jobs = jobs.len();
        let mut exhausted = Vec::with_capacity(n_jobs);
        for job in jobs.iter_mut() {
            exhausted.push(!job.is_ready(&self.log_mel, self.options.threads));
        }
        let first = self.turn % n_jobs.max(1);
        self.turn = self.turn.wrapping_add(1);
        for at in (first..first + n_jobs)
            .cycle()
            .map(|at| at % n_jobs)
            .take(n_jobs * self.options.batch_size)
        {
            if exhausted.iter().all(|done| *done) {
                break;
            }
            let job = &mut *jobs[at];
            let beams = job.options.beam_size.max(1);
            // Beams are narrower work than windows: their audio is encoded once.
            if exhausted[at]
                || (n_rows > 0 && n_rows + beams > self.options.batch_size.max(2 * beams))
            {
                exhausted[at] = true;
                continue;
            }
            match job.walk.next_window() {
                Some(window) => {
                    n_rows += beams;
                    picks.push(Pick { job: at, window });
                }
                None => exhausted[at] = true,
            }
        }
        picks
    }

    fn decode_picks(
        &mut self,
        jobs: &mut [&mut WhisperJob],
        picks: &[Pick],
        run: &RunGuard,
    ) -> Result<Vec<Decoded>> {
        let dims = self.backend.dims().clone();
        let mut mel = Array3::zeros((picks.len(), dims.n_mels, dims.n_frames));
        for (pick, out) in picks.iter().zip(mel.axis_iter_mut(Axis(0))) {
            run.check()?;
            let job = &mut *jobs[pick.job];
            if let Err(error) =
                job.walk
                    .features(&pick.window, &self.log_mel, out, self.options.threads)
            {
                // The others in the batch go on.
                job.failure = Some(error);
            }
        }
        let encoded = self.backend.encode(mel.view(), run)?;
        drop(mel);
        let detected = self.detect(jobs, picks, &encoded, run)?;
        let mut decode_jobs: Vec<DecodeJob> = picks
            .iter()
            .enumerate()
            .map(|(at, pick)| {
                let job = &*jobs[pick.job];
                self.decode_job(at, pick, job, &job.prompt, heard(&detected[at]))
            })
            .collect();
        let max_length = self.folder.max_length;
        let results = decode_with_fallback(
            &mut self.backend,
            &self.tokenizer,
            &encoded,
            &decode_jobs,
            max_length,
            run,
        )?;
        let mut decoded: Vec<Decoded> = Vec::with_capacity(picks.len());
        for ((pick, result), detected) in picks.iter().zip(results).zip(detected) {
            let split = jobs[pick.job]
                .walk
                .split(&pick.window, &result, &self.tokenizer);
            decoded.push(Decoded {
                result,
                split,
                words: Vec::new(),
                detected,
                is_unprompted: false,
            });
        }
        self.doubt(jobs, picks, &mut decoded, &mut decode_jobs, &encoded, run)?;
        self.time_words(jobs, picks, &mut decoded, &decode_jobs, &encoded, run)?;
        Ok(decoded)
    }

    /// Detects the language of windows whose request does not know it yet.
    fn detect(
        &mut self,
        jobs: &[&mut WhisperJob],
        picks: &[Pick],
        encoded: &B::Encoded,
        run: &RunGuard,
    ) -> Result<Vec<Option<Detected>>> {
        let unknown: Vec<usize> = (0..picks.len())
            .filter(|&at| jobs[picks[at].job].language.is_none())
            .collect();
        let mut detected = vec![None; picks.len()];
        if !unknown.is_empty() {
            let heard =
                detect_language(&mut self.backend, &self.tokenizer, encoded, &unknown, run)?;
            for (at, heard) in unknown.into_iter().zip(heard) {
                detected[at] = Some(heard);
            }
        }
        Ok(detected)
    }

    fn decode_job(
        &self,
        at: usize,
        pick: &Pick,
        job: &WhisperJob,
        prompt: &Prompt,
        heard: Option<&str>,
    ) -> DecodeJob {
        let options = &job.options;
        let timestamps = options.timestamps || job.walk.needs_timestamps();
        let language = job.language.as_deref().or(heard);
        let (prompt, sot) = prompt.tokens(
            &self.folder,
            language,
            options.task,
            timestamps,
            &pick.window.previous,
        );
        DecodeJob {
            window: at,
            prompt,
            sot,
            filters: self.rules.filters(timestamps),
            policy: FallbackPolicy {
                beam_size: options.beam_size,
                patience: options.patience,
                length_penalty: options.length_penalty,
                temperatures: options.temperatures.clone(),
                seed: options.seed,
                compression_ratio_threshold: options.compression_ratio_threshold,
                logprob_threshold: options.logprob_threshold,
                no_speech_threshold: options.no_speech_threshold,
            },
            stream: pick.window.start,
            cancel: job.cancel.clone(),
        }
    }

    fn time_words(
        &mut self,
        jobs: &[&mut WhisperJob],
        picks: &[Pick],
        decoded: &mut [Decoded],
        decode_jobs: &[DecodeJob],
        encoded: &B::Encoded,
        run: &RunGuard,
    ) -> Result<()> {
        if !self.backend.has_cross_attention() {
            return Ok(());
        }
        for (at, pick) in picks.iter().enumerate() {
            let job = &jobs[pick.job];
            let text = decoded[at].text_tokens(self.tokenizer.special().eot);
            if !job.options.word_timestamps || text.is_empty() || job.cancel.is_cancelled() {
                continue;
            }
            // The reference aligns the bare text: start sequence without times, text, end.
            let mut sequence = decode_jobs[at].prompt[decode_jobs[at].sot..].to_vec();
            if sequence.last() != Some(&self.tokenizer.special().no_timestamps) {
                sequence.push(self.tokenizer.special().no_timestamps);
            }
            let n_before = sequence.len();
            let room = self.backend.dims().n_text_ctx.saturating_sub(n_before + 1);
            let (tokens, logprobs): (Vec<u32>, Vec<f32>) = text.into_iter().take(room).unzip();
            let spans = decoded[at].spans(self.tokenizer.special().eot, tokens.len());
            sequence.extend_from_slice(&tokens);
            sequence.push(self.tokenizer.special().eot);
            let heads = self.alignment_heads();
            let attention = self
                .backend
                .attend(encoded, &[at], &[sequence], &heads, run)?;
            let language = job
                .language
                .as_deref()
                .or(decoded[at].detected.as_ref().map(|d| d.code.as_str()));
            decoded[at].words = align_words(
                &self.tokenizer,
                language.unwrap_or(ENGLISH),
                &tokens,
                &logprobs,
                &TextAttention {
                    weights: attention[0].view(),
                    n_before,
                    n_frames: pick.window.n_frames,
                    median_filter_width: self.folder.median_filter_width,
                },
                &spans,
            );
        }
        Ok(())
    }

    /// The export's own heads; else every head of the later half of layers, the reference's default.
    fn alignment_heads(&self) -> Vec<(usize, usize)> {
        let dims = self.backend.dims();
        self.folder.alignment_heads.clone().unwrap_or_else(|| {
            (dims.n_text_layer / 2..dims.n_text_layer)
                .flat_map(|layer| (0..dims.n_text_head).map(move |head| (layer, head)))
                .collect()
        })
    }

    fn accept(&self, job: &mut WhisperJob, window: Window, decoded: Decoded) {
        // A window without speech says nothing about the language either.
        if let Some(heard) = decoded
            .detected
            .as_ref()
            .filter(|_| job.language.is_none() && !decoded.is_empty())
        {
            job.language = Some(heard.code.clone());
            job.language_probability = Some(heard.probability);
        }
        if decoded.is_unprompted {
            job.unprompted
                .push(window.start as f64 / f64::from(SAMPLE_RATE));
        }
        let segments = decoded.place(&window, &self.tokenizer);
        job.walk.accept(
            window,
            &decoded.result,
            decoded.split.advance,
            segments,
            &self.tokenizer,
        );
    }
}

fn heard(detected: &Option<Detected>) -> Option<&str> {
    detected.as_ref().map(|detected| detected.code.as_str())
}

impl<B: Backend + 'static> BatchTranscriber for Whisper<B> {
    type Job = WhisperJob;

    fn begin(
        &self,
        audio: Arc<dyn AudioSource>,
        options: TranscribeOptions,
        cancel: CancelFlag,
    ) -> Result<WhisperJob> {
        let language = check_language(&self.folder, &options)?;
        if options.temperatures.is_empty() {
            return Err(EngineError::InvalidRequest(
                "temperatures is empty: name at least one, such as 0".to_owned(),
            ));
        }
        let prompt = Prompt::new(&self.tokenizer, &options, self.folder.dims.n_text_ctx);
        let mut walk = Walk::new(audio, &options, self.shape())?;
        walk.warnings.extend(prompt.warning());
        if options.word_timestamps && !self.backend.has_cross_attention() {
            walk.warnings.push(
                "this model's export has no cross-attentions: its words have no times".to_owned(),
            );
        }
        Ok(WhisperJob {
            failure: None,
            walk,
            options,
            prompt,
            language,
            language_probability: None,
            unprompted: Vec::new(),
            cancel,
        })
    }

    fn step(&mut self, jobs: &mut [&mut WhisperJob], run: &RunGuard) -> Result<()> {
        let picks = self.pick(jobs);
        if picks.is_empty() {
            return Ok(());
        }
        match self.decode_picks(jobs, &picks, run) {
            Ok(decoded) => {
                for (pick, decoded) in picks.into_iter().zip(decoded) {
                    self.accept(jobs[pick.job], pick.window, decoded);
                }
                Ok(())
            }
            Err(error) => {
                picks.iter().for_each(|pick| jobs[pick.job].walk.give_up());
                Err(error)
            }
        }
    }

    fn is_done(job: &WhisperJob) -> bool {
        job.failure.is_some() || job.walk.is_done()
    }

    fn progress(job: &WhisperJob) -> f64 {
        job.walk.progress()
    }

    fn settled(job: &mut WhisperJob) -> Vec<Segment> {
        job.walk.settled()
    }

    fn finish(&self, job: WhisperJob) -> Result<Transcription> {
        if let Some(failure) = job.failure {
            return Err(failure);
        }
        let duration = job.walk.audio.duration();
        let (segments, mut warnings) = job.walk.finish();
        warnings.extend(left_out(job.unprompted));
        let text: String = segments
            .iter()
            .map(|segment| segment.text.as_str())
            .collect();
        Ok(Transcription {
            text: text.trim().to_owned(),
            language: job.language.unwrap_or_else(|| ENGLISH.to_owned()),
            language_probability: job.language_probability,
            duration,
            segments,
            warnings,
        })
    }

    fn weight_bytes(&self) -> u64 {
        self.backend.weight_bytes()
    }
}

/// Says where prompt and vocabulary were not used.
fn left_out(mut starts: Vec<f64>) -> Option<String> {
    /// Places that are named.
    const NAMED: usize = 5;
    starts.sort_by(f64::total_cmp);
    let named: Vec<String> = starts
        .iter()
        .take(NAMED)
        .map(|start| format!("{start:.1} s"))
        .collect();
    let more = match starts.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more places"),
    };
    (!named.is_empty()).then(|| {
        format!(
            "prompt and vocabulary were left out at {}{more}, where the model was surer without them",
            named.join(", ")
        )
    })
}

/// The language asked for, checked; an English-only model always hears English.
fn check_language(folder: &ModelFolder, options: &TranscribeOptions) -> Result<Option<String>> {
    use crate::transcription::Task;

    if options.task == Task::Translate && folder.tokens.translate.is_none() {
        return Err(EngineError::InvalidRequest(
            "this model knows English only and cannot translate; choose a multilingual model"
                .to_owned(),
        ));
    }
    match &options.language {
        None if folder.is_multilingual() => Ok(None),
        None => Ok(Some(ENGLISH.to_owned())),
        Some(code) if folder.tokens.language(code).is_some() => Ok(Some(code.clone())),
        Some(code) if code == ENGLISH && !folder.is_multilingual() => Ok(Some(ENGLISH.to_owned())),
        Some(code) if !folder.is_multilingual() => Err(EngineError::InvalidRequest(format!(
            "this model knows English only, not {code:?}; choose a multilingual model"
        ))),
        Some(code) => {
            let known: Vec<&str> = folder
                .tokens
                .languages
                .iter()
                .map(|(code, _)| code.as_str())
                .collect();
            Err(EngineError::InvalidRequest(format!(
                "this model does not know the language {code:?}; it knows {}",
                known.join(", ")
            )))
        }
    }
}
