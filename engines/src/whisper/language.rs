//! Which language is spoken, from the logits after `<|startoftranscript|>` (`detect_language` in
//! `whisper/decoding.py`).

use crate::error::Result;
use crate::session::RunGuard;
use crate::whisper::backend::{Backend, StartLogits};
use crate::whisper::decoding::probability;
use crate::whisper::tokenizer::Tokenizer;

/// A language heard in a window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Detected {
    /// Its code.
    pub code: String,
    /// Its probability among all the model's languages, 0–1.
    pub probability: f32,
    /// Probability that the window holds no speech at all, 0–1.
    pub no_speech_prob: f32,
}

/// Detects the language of some windows of an encoded batch. The model must be multilingual.
///
/// # Errors
/// A failing graph.
pub(crate) fn detect_language<B: Backend>(
    backend: &mut B,
    tokenizer: &Tokenizer,
    encoded: &B::Encoded,
    windows: &[usize],
    run: &RunGuard,
) -> Result<Vec<Detected>> {
    let special = tokenizer.special();
    let prompt = [special.sot];
    let prompts = vec![prompt.as_slice(); windows.len()];
    let mut logits = StartLogits::default();
    backend.start(encoded, windows, &prompts, 0, &mut logits, run)?;
    let n_vocab = backend.dims().n_vocab;
    let detected = logits.at_sot.chunks_exact(n_vocab).map(|row| {
        let among: Vec<f32> = special
            .languages
            .iter()
            .map(|(_, token)| row[*token as usize])
            .collect();
        let best = probability::argmax(&among);
        Detected {
            code: special.languages[best].0.clone(),
            probability: probability::probability(&among, best),
            no_speech_prob: special
                .no_speech
                .map_or(0.0, |token| probability::probability(row, token as usize)),
        }
    });
    Ok(detected.collect())
}
