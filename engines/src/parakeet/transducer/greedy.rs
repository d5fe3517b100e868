//! Greedy decoding of a batch: all windows take their step together, each at a frame of its own. Tokens, times and
//! limits follow onnx-asr's loop, which equals NeMo's.

use super::network::{Network, Prediction};
use crate::error::Result;
use crate::parakeet::boosting::{Phrases, Trial};
use crate::parakeet::token::{Token, log_probability, maximum};
use crate::session::RunGuard;

/// A window to decode.
pub(crate) struct Window<'a> {
    /// Its encoder states `[frames, width of the encoder]`.
    pub states: &'a [f32],
    /// Frames that hold audio.
    pub n_frames: usize,
    /// Phrases to listen for.
    pub phrases: Option<&'a Phrases>,
}

/// Where the decoding of a window stands; a copy is all it takes to come back.
#[derive(Clone)]
struct Position {
    frame: usize,
    /// Tokens said at this frame.
    n_here: usize,
    n_tokens: usize,
    prediction: Prediction,
}

struct Stream<'a> {
    /// `[frames, width of the joint network]`.
    frames: Vec<f32>,
    n_frames: usize,
    phrases: Option<&'a Phrases>,
    at: Position,
    tokens: Vec<Token>,
    trial: Option<(Trial, Position)>,
    /// A place where a phrase was tried in vain.
    refuted: Option<(usize, usize)>,
}

/// Decodes windows; answers the tokens of each.
///
/// # Errors
/// [`crate::EngineError::Cancelled`].
pub(crate) fn decode(
    network: &Network,
    windows: &[Window<'_>],
    max_symbols: usize,
    run: &RunGuard,
) -> Result<Vec<Vec<Token>>> {
    let start = network.start();
    let mut streams: Vec<Stream<'_>> = windows
        .iter()
        .map(|window| Stream {
            frames: network.project(window.states),
            n_frames: window.n_frames,
            phrases: window.phrases,
            at: Position {
                frame: 0,
                n_here: 0,
                n_tokens: 0,
                prediction: start.clone(),
            },
            tokens: Vec::new(),
            trial: None,
            refuted: None,
        })
        .collect();
    let (mut sums, mut outputs) = (Vec::new(), Vec::new());
    loop {
        run.check()?;
        let mut active: Vec<&mut Stream<'_>> =
            streams.iter_mut().filter_map(Stream::is_active).collect();
        if active.is_empty() {
            break;
        }
        let width = network.width();
        let pairs = active.iter().map(|stream| {
            (
                &stream.frames[stream.at.frame * width..][..width],
                &stream.at.prediction,
            )
        });
        network.join(pairs, &mut sums, &mut outputs);
        let mut said = Vec::new();
        let mut predictions = Vec::new();
        for (stream, outputs) in active
            .iter_mut()
            .zip(outputs.chunks_exact(network.n_outputs()))
        {
            if let Some(token) = stream.step(network, outputs, max_symbols) {
                said.push(token);
                predictions.push(&mut stream.at.prediction);
            }
        }
        network.predict(&said, &mut predictions);
    }
    Ok(streams.into_iter().map(|stream| stream.tokens).collect())
}

impl<'a> Stream<'a> {
    /// Itself while frames are left. At the end an unfinished trial is taken back, which may leave frames again.
    fn is_active(&mut self) -> Option<&mut Self> {
        if self.at.frame >= self.n_frames
            && let Some((trial, _)) = &self.trial
            && !trial.may_stand_at_end(self.phrases?)
        {
            self.take_back();
        }
        (self.at.frame < self.n_frames).then_some(self)
    }

    fn take_back(&mut self) {
        if let Some((_, start)) = self.trial.take() {
            self.tokens.truncate(start.n_tokens);
            self.refuted = Some((start.frame, start.n_here));
            self.at = start;
        }
    }

    /// Takes the outputs of one step. Answers the token said, for which a prediction is wanted.
    fn step(&mut self, network: &Network, outputs: &[f32], max_symbols: usize) -> Option<u32> {
        let blank = network.blank();
        let (scores, durations) = outputs.split_at(blank + 1);
        let mut token = maximum(scores);
        if let Some(phrases) = self.phrases {
            match self.boosted(phrases, scores, token, blank) {
                Some(chosen) => token = chosen,
                None => {
                    self.take_back();
                    return None;
                }
            }
        }
        let duration = if durations.is_empty() {
            None
        } else {
            Some(maximum(durations))
        };
        let is_blank = token == blank;
        if !is_blank {
            self.tokens.push(Token {
                id: token as u32,
                frame: self.at.frame,
                // A plain transducer does not say how long a token lasts: one frame.
                n_frames: duration.unwrap_or(1),
                logprob: log_probability(scores, token),
            });
            self.at.n_tokens += 1;
            self.at.n_here += 1;
        }
        match duration {
            Some(frames) if frames > 0 => {
                self.at.frame += frames;
                self.at.n_here = 0;
            }
            _ if is_blank || self.at.n_here >= max_symbols => {
                self.at.frame += 1;
                self.at.n_here = 0;
            }
            _ => {}
        }
        (!is_blank).then_some(token as u32)
    }

    /// The token to take with phrases to listen for; `None` when the phrase tried has failed.
    fn boosted(
        &mut self,
        phrases: &Phrases,
        scores: &[f32],
        best: usize,
        blank: usize,
    ) -> Option<usize> {
        if let Some((trial, _)) = &mut self.trial {
            let step = trial.step(phrases, scores, best, &[blank])?;
            if step.is_over {
                self.trial = None;
            }
            return Some(step.token);
        }
        let here = (self.at.frame, self.at.n_here);
        if self.refuted == Some(here) {
            return Some(best);
        }
        match phrases.begin(scores, best, &[]) {
            Some((trial, token)) => {
                self.trial = Some((trial, self.at.clone()));
                Some(token)
            }
            None => Some(best),
        }
    }
}
