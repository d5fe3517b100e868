//! What decoding asks of a Whisper network, so that the decode loop, its rules and the goldens exist once while the
//! graphs behind them can be the published ones ([`super::model`]) or rewritten ones.
//!
//! A backend encodes windows, feeds tokens to a batch of sequences, and answers the logits of the last position. It
//! knows nothing of tokens' meaning, of beams or of time. One thread owns it.
//!
//! The life of a batch:
//! ```text
//! encoded = encode(mel [b, n_mels, 3000])                    once per window
//! state   = start(encoded, windows [n], prompts [n][t])      n sequences, logits at <|startoftranscript|> and the last
//! loop      step(state, tokens [n])                          logits [n, n_vocab] of the new position
//!           reorder(state, sources [m])                      beams swap, ended sequences leave
//! ```

use ndarray::{Array3, ArrayView3};

use crate::error::Result;
use crate::session::RunGuard;

/// Sizes of a Whisper network, all read from its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dims {
    /// Mel bands: 80, or 128 from large-v3 on.
    pub n_mels: usize,
    /// Mel frames in a window: 3000 (30 s of 10 ms).
    pub n_frames: usize,
    /// Encoder positions in a window: 1500 (30 s of 20 ms).
    pub n_audio_ctx: usize,
    /// Longest sequence the decoder has positions for: 448.
    pub n_text_ctx: usize,
    /// Decoder layers.
    pub n_text_layer: usize,
    /// Attention heads of a decoder layer.
    pub n_text_head: usize,
    /// Vocabulary, time tokens included.
    pub n_vocab: usize,
}

/// Logits of a batch's first call. Both are `[n_sequences, n_vocab]`, row after row.
#[derive(Debug, Default)]
pub struct StartLogits {
    /// At the position of `<|startoftranscript|>`: they tell the language and whether there is speech at all.
    pub at_sot: Vec<f32>,
    /// At the last position of the prompt: the first new token.
    pub last: Vec<f32>,
}

/// A Whisper encoder and decoder.
pub trait Backend: Send {
    /// Encoder output of some windows, in whatever form the decoder wants it. Read by any number of `start` calls
    /// (temperature fallback decodes a window again without encoding it again).
    type Encoded;
    /// A batch of sequences in progress: their key-value cache and what they listen to.
    type State;

    /// Whether [`Backend::reorder`] drops sequences without copying those that stay.
    const LEAVES_WITHOUT_COPY: bool = false;

    /// The network's sizes.
    fn dims(&self) -> &Dims;

    /// Encodes windows. `mel` is `[n_windows, n_mels, n_frames]`, in standard layout.
    ///
    /// # Errors
    /// A failing graph; [`crate::EngineError::Cancelled`] when `run` was stopped.
    fn encode(&mut self, mel: ArrayView3<'_, f32>, run: &RunGuard) -> Result<Self::Encoded>;

    /// Starts one sequence for each entry of `windows` (indexes into `encoded`; a window may occur several times or
    /// not at all) by feeding it its prompt. All prompts have the same length, 1 to `n_text_ctx`; `sot` is the position
    /// of `<|startoftranscript|>` in each of them. Fills `logits` for both positions.
    ///
    /// # Errors
    /// As [`Backend::encode`].
    fn start(
        &mut self,
        encoded: &Self::Encoded,
        windows: &[usize],
        prompts: &[&[u32]],
        sot: usize,
        logits: &mut StartLogits,
        run: &RunGuard,
    ) -> Result<Self::State>;

    /// Feeds each sequence one more token and fills `logits` with `[n_sequences, n_vocab]` for the position after it.
    /// The buffer is reused from step to step.
    ///
    /// # Errors
    /// As [`Backend::encode`]. The state is unusable afterwards.
    fn step(
        &mut self,
        state: &mut Self::State,
        tokens: &[u32],
        logits: &mut Vec<f32>,
        run: &RunGuard,
    ) -> Result<()>;

    /// Rearranges the batch: new sequence `i` continues old sequence `sources[i]`. There may be fewer sequences than
    /// before (some have ended), as many (beams change places) or more (beams fan out of one prompt). An old sequence
    /// may be continued several times or never. Identity costs nothing.
    ///
    /// # Errors
    /// Out of memory, as reported by ONNX Runtime.
    fn reorder(&mut self, state: &mut Self::State, sources: &[usize]) -> Result<()>;

    /// Whether [`Backend::attend`] can answer: the export has cross-attentions.
    fn has_cross_attention(&self) -> bool;

    /// Runs whole sequences through the decoder at once and answers, for each, the cross-attention weights (after
    /// softmax) of `heads` = `(layer, head)`: `[n_heads, n_tokens, n_audio_ctx]`, row `t` being the attention paid
    /// while token `t` was the newest. Sequences may differ in length.
    ///
    /// # Errors
    /// As [`Backend::encode`], and [`crate::EngineError::InvalidRequest`] when the export has no cross-attentions.
    fn attend(
        &mut self,
        encoded: &Self::Encoded,
        windows: &[usize],
        sequences: &[Vec<u32>],
        heads: &[(usize, usize)],
        run: &RunGuard,
    ) -> Result<Vec<Array3<f32>>>;

    /// Bytes of weights held in memory, for the model pool's budget.
    fn weight_bytes(&self) -> u64;
}
