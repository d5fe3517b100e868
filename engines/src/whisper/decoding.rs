//! Decodes a batch of encoded windows into tokens (`DecodingTask` in `whisper/decoding.py`), and again at higher
//! temperatures those whose text fails its tests (`decode_with_fallback` in `whisper/transcribe.py`). What a window's
//! tokens mean in the audio is [`super::longform`]'s matter.

pub(crate) mod filters;
pub(crate) mod probability;
pub(crate) mod repetition;
pub(crate) mod search;

use crate::error::Result;
use crate::session::RunGuard;
use crate::transcription::CancelFlag;
use crate::whisper::backend::{Backend, StartLogits};
use crate::whisper::tokenizer::Tokenizer;
use filters::LogitFilters;
pub(crate) use repetition::compression_ratio;
use search::{Hypothesis, Search, Strategy};

/// Share of a batch that may have ended before the batch is packed: packing copies the caches of all that go on.
const ENDED_SHARE: usize = 3;

/// One window to decode.
#[derive(Debug, Clone)]
pub(crate) struct DecodeJob {
    /// Its place in the encoded batch.
    pub window: usize,
    /// Everything before the first generated token.
    pub prompt: Vec<u32>,
    /// Position of `<|startoftranscript|>` in the prompt.
    pub sot: usize,
    /// Rules for its logits.
    pub filters: LogitFilters,
    /// How to search and when to try again.
    pub policy: FallbackPolicy,
    /// Stream of random numbers, different for each window of a file.
    pub stream: u64,
    /// Given up when raised.
    pub cancel: CancelFlag,
}

/// How to search for a window's text, and which texts are good enough (Radford et al., 2022, section 4.5).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FallbackPolicy {
    pub beam_size: usize,
    pub patience: f32,
    pub length_penalty: Option<f32>,
    pub temperatures: Vec<f32>,
    pub seed: u64,
    pub compression_ratio_threshold: Option<f32>,
    pub logprob_threshold: Option<f32>,
    pub no_speech_threshold: Option<f32>,
}

/// The text of a window.
#[derive(Debug, Clone, Default)]
pub(crate) struct DecodingResult {
    /// Generated tokens, times among them, without the end token.
    pub tokens: Vec<u32>,
    /// Log-probability of each token.
    pub logprobs: Vec<f32>,
    pub avg_logprob: f32,
    pub no_speech_prob: f32,
    pub temperature: f32,
    pub compression_ratio: f32,
    /// Every temperature gave a repetition; loops have been cut out of the tokens.
    pub was_looping: bool,
    /// Nothing was said, by the reference's test.
    pub is_silence: bool,
}

impl FallbackPolicy {
    fn strategy(&self, attempt: usize, stream: u64) -> Strategy {
        let temperature = self.temperatures.get(attempt).copied().unwrap_or(0.0);
        if temperature == 0.0 && self.beam_size > 1 {
            let (size, patience, length_penalty) =
                (self.beam_size, self.patience, self.length_penalty);
            return Strategy::Beam {
                size,
                patience,
                length_penalty,
            };
        }
        // Every attempt draws from a stream of its own.
        Strategy::Greedy {
            temperature,
            seed: self.seed,
            stream: stream.wrapping_mul(64) + attempt as u64,
        }
    }

    fn is_repetition(&self, result: &DecodingResult) -> bool {
        self.compression_ratio_threshold
            .is_some_and(|threshold| result.compression_ratio > threshold)
    }

    fn is_unsure(&self, result: &DecodingResult) -> bool {
        self.logprob_threshold
            .is_some_and(|threshold| result.avg_logprob < threshold)
    }

    /// An unsure text over a window that the model itself thinks empty.
    fn is_silence(&self, result: &DecodingResult) -> bool {
        let empty = self
            .no_speech_threshold
            .is_some_and(|threshold| result.no_speech_prob > threshold);
        empty && (self.logprob_threshold.is_none() || self.is_unsure(result))
    }
}

/// Decodes every job, each at the first of its temperatures whose text passes.
///
/// # Errors
/// A failing graph. A job whose flag is raised is answered with whatever it has.
pub(crate) fn decode_with_fallback<B: Backend>(
    backend: &mut B,
    tokenizer: &Tokenizer,
    encoded: &B::Encoded,
    jobs: &[DecodeJob],
    max_length: usize,
    run: &RunGuard,
) -> Result<Vec<DecodingResult>> {
    let mut best: Vec<Option<DecodingResult>> = jobs.iter().map(|_| None).collect();
    let mut failing: Vec<usize> = (0..jobs.len()).collect();
    let attempts = jobs
        .iter()
        .map(|job| job.policy.temperatures.len())
        .max()
        .unwrap_or(0)
        .max(1);
    for attempt in 0..attempts {
        let (now, rest): (Vec<usize>, Vec<usize>) = failing
            .iter()
            .partition(|&&at| attempt == 0 || attempt < jobs[at].policy.temperatures.len());
        let mut next = Vec::new();
        for group in by_prompt_length(&now, jobs) {
            let results = decode(
                backend, tokenizer, encoded, jobs, &group, attempt, max_length, run,
            )?;
            for (at, mut result) in group.into_iter().zip(results) {
                let policy = &jobs[at].policy;
                result.is_silence = policy.is_silence(&result);
                let failed = (result.was_looping
                    || policy.is_repetition(&result)
                    || policy.is_unsure(&result))
                    && !result.is_silence;
                result.was_looping |= policy.is_repetition(&result);
                if failed && !jobs[at].cancel.is_cancelled() {
                    next.push(at);
                }
                let better = !failed
                    || best[at]
                        .as_ref()
                        .is_none_or(|other| is_better(&result, other));
                if better {
                    best[at] = Some(result);
                }
            }
        }
        failing = next;
        if failing.is_empty() && rest.is_empty() {
            break;
        }
    }
    let results = best
        .into_iter()
        .map(Option::unwrap_or_default)
        .map(|mut result| {
            if result.was_looping {
                cut_loops(&mut result, tokenizer);
            }
            result
        });
    Ok(results.collect())
}

/// Of two failed attempts: rather unsure than repeating itself, else the surer one.
fn is_better(result: &DecodingResult, other: &DecodingResult) -> bool {
    (other.was_looping, result.avg_logprob) > (result.was_looping, other.avg_logprob)
}

/// Jobs that can share a batch: the graphs want prompts of one length.
fn by_prompt_length(jobs: &[usize], all: &[DecodeJob]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for &at in jobs {
        let same = |group: &&mut Vec<usize>| {
            let first = &all[group[0]];
            (first.prompt.len(), first.sot) == (all[at].prompt.len(), all[at].sot)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

/// Consecutive rows of the batch that belong to one job.
struct Block {
    /// The job's search; `None` once it has ended and its rows only wait to be packed away.
    search: Option<usize>,
    n_rows: usize,
}

/// Decodes jobs of one prompt length in one batch.
#[expect(
    clippy::too_many_arguments,
    reason = "one call site; a struct would only rename the arguments"
)]
fn decode<B: Backend>(
    backend: &mut B,
    tokenizer: &Tokenizer,
    encoded: &B::Encoded,
    jobs: &[DecodeJob],
    group: &[usize],
    attempt: usize,
    max_length: usize,
    run: &RunGuard,
) -> Result<Vec<DecodingResult>> {
    let n_vocab = backend.dims().n_vocab;
    let eot = tokenizer.special().eot;
    let first = &jobs[group[0]];
    let limit = max_length
        .min(backend.dims().n_text_ctx)
        .saturating_sub(first.prompt.len());
    let windows: Vec<usize> = group.iter().map(|&at| jobs[at].window).collect();
    let prompts: Vec<&[u32]> = group.iter().map(|&at| jobs[at].prompt.as_slice()).collect();
    let mut logits = StartLogits::default();
    let mut state = backend.start(encoded, &windows, &prompts, first.sot, &mut logits, run)?;

    let no_speech = tokenizer.special().no_speech;
    let no_speech_probs: Vec<f32> = logits
        .at_sot
        .chunks_exact(n_vocab)
        .map(|row| no_speech.map_or(0.0, |token| probability::probability(row, token as usize)))
        .collect();
    let mut searches: Vec<Search> = group
        .iter()
        .map(|&at| {
            let policy = &jobs[at].policy;
            let stop_loops = policy.compression_ratio_threshold.is_some();
            Search::new(policy.strategy(attempt, jobs[at].stream), eot, stop_loops)
        })
        .collect();
    let mut blocks: Vec<Block> = (0..group.len())
        .map(|at| Block {
            search: Some(at),
            n_rows: 1,
        })
        .collect();
    let mut logits = logits.last;
    for _ in 0..limit {
        let mut sources = Vec::new();
        let mut tokens = Vec::new();
        let mut row = 0;
        for block in &mut blocks {
            let rows = &mut logits[row * n_vocab..(row + block.n_rows) * n_vocab];
            let mut continuations = Vec::new();
            if let Some(at) = block.search {
                let job = &jobs[group[at]];
                let search = &mut searches[at];
                if !job.cancel.is_cancelled() {
                    for (row, hypothesis) in rows.chunks_exact_mut(n_vocab).zip(search.active()) {
                        job.filters.apply(row, &hypothesis.tokens);
                    }
                    continuations = search.advance(rows, n_vocab);
                }
            }
            let n_old = block.n_rows;
            if continuations.is_empty() {
                block.search = None;
                sources.extend(row..row + n_old);
                tokens.extend(std::iter::repeat_n(eot, n_old));
            } else {
                block.n_rows = continuations.len();
                sources.extend(
                    continuations
                        .iter()
                        .map(|continuation| row + continuation.source),
                );
                tokens.extend(continuations.iter().map(|continuation| continuation.token));
            }
            row += n_old;
        }
        if blocks.iter().all(|block| block.search.is_none()) {
            break;
        }
        pack::<B>(&mut blocks, &mut sources, &mut tokens);
        backend.reorder(&mut state, &sources)?;
        backend.step(&mut state, &tokens, &mut logits, run)?;
    }
    let results =
        group
            .iter()
            .zip(searches)
            .zip(no_speech_probs)
            .map(|((&at, search), no_speech_prob)| {
                let temperature = jobs[at]
                    .policy
                    .temperatures
                    .get(attempt)
                    .copied()
                    .unwrap_or(0.0);
                describe(search.finish(), tokenizer, temperature, no_speech_prob)
            });
    Ok(results.collect())
}

/// Drops the rows of ended blocks: at once where that is free, else when they are a large enough share.
fn pack<B: Backend>(blocks: &mut Vec<Block>, sources: &mut Vec<usize>, tokens: &mut Vec<u32>) {
    let ended: usize = blocks
        .iter()
        .filter(|block| block.search.is_none())
        .map(|block| block.n_rows)
        .sum();
    let few = ended == 0 || (!B::LEAVES_WITHOUT_COPY && ended * ENDED_SHARE < tokens.len());
    if few {
        return;
    }
    let keep: Vec<bool> = blocks
        .iter()
        .flat_map(|block| std::iter::repeat_n(block.search.is_some(), block.n_rows))
        .collect();
    let mut kept = keep.iter();
    sources.retain(|_| *kept.next().unwrap_or(&true));
    let mut kept = keep.iter();
    tokens.retain(|_| *kept.next().unwrap_or(&true));
    blocks.retain(|block| block.search.is_some());
}

fn describe(
    found: Hypothesis,
    tokenizer: &Tokenizer,
    temperature: f32,
    no_speech_prob: f32,
) -> DecodingResult {
    let text = tokenizer.decode(&found.tokens);
    DecodingResult {
        avg_logprob: found.avg_logprob(),
        compression_ratio: compression_ratio(text.trim()),
        was_looping: found.is_looping,
        is_silence: false,
        no_speech_prob,
        temperature,
        tokens: found.tokens,
        logprobs: found.logprobs,
    }
}

/// Cuts every run of text between times to the first turn of its loop.
fn cut_loops(result: &mut DecodingResult, tokenizer: &Tokenizer) {
    let mut tokens = Vec::with_capacity(result.tokens.len());
    let mut logprobs = Vec::with_capacity(result.tokens.len());
    let mut at = 0;
    for run in result
        .tokens
        .chunk_by(|a, b| tokenizer.is_timestamp(*a) == tokenizer.is_timestamp(*b))
    {
        let kept = if tokenizer.is_timestamp(run[0]) {
            run.len()
        } else {
            repetition::without_loop(run)
        };
        tokens.extend_from_slice(&run[..kept]);
        logprobs.extend_from_slice(&result.logprobs[at..at + kept]);
        at += run.len();
    }
    result.tokens = tokens;
    result.logprobs = logprobs;
}
