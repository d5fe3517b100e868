//! Greedy decoding of a batch: all windows take their step together, each at a frame of its own. Tokens, times and
//! limits follow onnx-asr's loop, which equals NeMo's.

use super::network::{Network, Prediction};
use crate::error::Result;
use crate::parakeet::boosting::{Phrases, Step, Trial};
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
            match trial.step(phrases, scores, best, &[blank]) {
                Step::Take(token) => return Some(token),
                Step::Failed => return None,
                Step::Over => self.trial = None,
            }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::path::{Path, PathBuf};

    use serde::Deserialize;

    use super::*;
    use crate::parakeet::folder::NetworkGraphs;
    use crate::session::{Device, Runtime, RuntimeOptions};

    #[derive(Deserialize)]
    struct Clip {
        ids: Vec<u32>,
        frames: Vec<usize>,
    }

    /// A plain transducer's states and what NeMo heard in them.
    fn clip() -> (Vec<f32>, Clip) {
        let golden = models().join("parakeet-streaming-nano/golden");
        let states = std::fs::read(golden.join("clip0.states.f32")).unwrap();
        let states = states
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let clip =
            serde_json::from_slice(&std::fs::read(golden.join("clip0.json")).unwrap()).unwrap();
        (states, clip)
    }

    fn models() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
    }

    fn guard() -> RunGuard {
        let options = RuntimeOptions {
            device: Device::Cpu,
            library: None,
        };
        Runtime::load(&options).unwrap();
        RunGuard::new().unwrap()
    }

    fn window(states: &[f32]) -> Window<'_> {
        Window {
            states,
            n_frames: states.len() / 96,
            phrases: None,
        }
    }

    #[test]
    fn a_plain_transducer_equals_the_reference_from_one_graph_and_from_two() {
        let folder = models().join("parakeet-streaming-nano");
        let graphs = [
            NetworkGraphs::Joined(folder.join("decoder_joint.onnx")),
            NetworkGraphs::Split {
                decoder: folder.join("decoder.onnx"),
                joiner: folder.join("joiner.onnx"),
            },
        ];
        let (states, clip) = clip();
        for graphs in graphs {
            let network = Network::read(&graphs, 257).unwrap();
            assert_eq!(network.n_outputs(), 257);
            let tokens = decode(&network, &[window(&states)], 10, &guard())
                .unwrap()
                .remove(0);
            let (ids, frames): (Vec<u32>, Vec<usize>) =
                tokens.iter().map(|token| (token.id, token.frame)).unzip();
            assert_eq!((ids, frames), (clip.ids.clone(), clip.frames.clone()));
        }
    }

    #[test]
    fn windows_in_step_say_what_each_says_alone() {
        let folder = models().join("parakeet-tdt-nano");
        for file in ["decoder_joint-model.onnx", "decoder_joint-model.int8.onnx"] {
            let network = Network::read(&NetworkGraphs::Joined(folder.join(file)), 257).unwrap();
            let (states, _) = clip();
            let windows: Vec<Window<'_>> =
                [23, 11, 0, 17, 5].map(|n| window(&states[..n * 96])).into();
            let run = guard();
            let together = decode(&network, &windows, 10, &run).unwrap();
            for (window, together) in windows.iter().zip(&together) {
                let alone = decode(&network, std::slice::from_ref(window), 10, &run)
                    .unwrap()
                    .remove(0);
                assert_eq!(*together, alone);
            }
            assert!(!together[0].is_empty() && together[2].is_empty());
        }
    }

    #[test]
    fn a_vocabulary_that_does_not_fit_the_network_is_refused() {
        let graphs =
            NetworkGraphs::Joined(models().join("parakeet-tdt-nano/decoder_joint-model.onnx"));
        let error = Network::read(&graphs, 300).unwrap_err().to_string();
        assert!(error.contains("vocabulary"), "{error}");
    }
}
