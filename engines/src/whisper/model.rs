//! The published graphs as a [`Backend`]: encoder, and decoder merged or with-past, with the tensor names optimum gives
//! them. The graphs have no attention mask and count positions from the cache, so all sequences of a batch have the
//! same length. Key-value tensors go back in as they came out, without a copy.

mod graph;

use std::path::PathBuf;
use std::sync::Arc;

use ndarray::{Array3, ArrayView3, Axis};
use ort::session::Session;
use ort::value::{DynValue, Tensor, TensorRef};

use crate::error::{EngineError, Result};
use crate::model_folder::{DecoderGraphs, ModelFolder};
use crate::session::{Device, RunGuard, Runtime, SessionOptions};
use crate::whisper::backend::{Backend, Dims, StartLogits};
use graph::{DecoderGraph, Feed};

/// A Whisper network run from its published graphs.
pub struct PublishedModel {
    dims: Dims,
    runtime: Runtime,
    options: SessionOptions,
    weight_bytes: u64,
    encoder: Session,
    /// Takes the prompt: the merged graph, or `decoder_model`.
    prompt: DecoderGraph,
    /// Takes every later token, when it is not the merged graph.
    step: Option<DecoderGraph>,
    /// A decoder with cross-attentions, loaded when words first want times.
    timestamped: Timestamped,
}

enum Timestamped {
    None,
    /// The decoder itself has them.
    InPrompt,
    OnDisk(PathBuf),
    Loaded(DecoderGraph),
}

/// Encoder states of some windows, `[n_windows, n_audio_ctx, d_model]`.
pub struct EncoderStates(Arc<DynValue>);

/// The key-value cache of a batch.
pub struct Cache {
    /// Self-attention keys and values by layer, `[n_sequences, n_heads, n_past, d_head]`.
    decoder: Vec<DynValue>,
    /// Cross-attention keys and values by layer, `[n_sequences, n_heads, n_audio_ctx, d_head]`.
    encoder: Vec<Arc<DynValue>>,
    /// Merged graphs want the states again although the cached branch ignores them.
    states: Arc<DynValue>,
    /// The window each sequence listens to.
    windows: Vec<usize>,
    n_past: usize,
}

impl PublishedModel {
    /// Loads a folder's graphs, each with `threads` threads.
    ///
    /// # Errors
    /// [`EngineError::Graph`] when a graph cannot be built, [`EngineError::ModelInvalid`] when it is not a Whisper graph.
    pub fn load(runtime: &Runtime, folder: &ModelFolder, threads: usize) -> Result<Self> {
        let options = SessionOptions {
            threads,
            ..SessionOptions::default()
        };
        let graphs = &folder.graphs;
        let encoder = runtime.session(&graphs.encoder, &options)?;
        let (prompt, step) = match &graphs.decoder {
            DecoderGraphs::Merged(path) => (DecoderGraph::load(runtime, path, &options)?, None),
            DecoderGraphs::WithPast { prompt, step } => (
                DecoderGraph::load(runtime, prompt, &options)?,
                Some(DecoderGraph::load(runtime, step, &options)?),
            ),
        };
        let timestamped = match &graphs.timestamped_decoder {
            _ if prompt.n_cross_attentions() > 0 => Timestamped::InPrompt,
            Some(path) => Timestamped::OnDisk(path.clone()),
            None => Timestamped::None,
        };
        let weight_bytes = graphs.bytes();
        Ok(Self {
            dims: folder.dims.clone(),
            runtime: runtime.clone(),
            options,
            weight_bytes,
            encoder,
            prompt,
            step,
            timestamped,
        })
    }

    fn encode_batch(&mut self, mel: ArrayView3<'_, f32>, run: &RunGuard) -> Result<EncoderStates> {
        let failed = |error: ort::Error| run.error("encoding audio", error);
        let features = TensorRef::from_array_view(mel).map_err(failed)?;
        let mut outputs = self
            .encoder
            .run_with_options(ort::inputs!["input_features" => features], run.options())
            .map_err(failed)?;
        let states = outputs.remove("last_hidden_state").ok_or_else(|| {
            EngineError::graph("encoding audio", "the encoder has no last_hidden_state")
        })?;
        Ok(EncoderStates(Arc::new(states)))
    }

    fn timestamped_graph(&mut self) -> Result<&mut DecoderGraph> {
        if let Timestamped::OnDisk(path) = &self.timestamped {
            let graph = DecoderGraph::load(&self.runtime, path, &self.options)?;
            self.timestamped = Timestamped::Loaded(graph);
        }
        match &mut self.timestamped {
            Timestamped::Loaded(graph) => Ok(graph),
            Timestamped::InPrompt => Ok(&mut self.prompt),
            Timestamped::None | Timestamped::OnDisk(_) => Err(EngineError::InvalidRequest(
                "this model's export has no cross-attentions, so its words have no times"
                    .to_owned(),
            )),
        }
    }
}

impl Backend for PublishedModel {
    type Encoded = EncoderStates;
    type State = Cache;

    fn dims(&self) -> &Dims {
        &self.dims
    }

    /// On the CPU windows are encoded one by one: a batch is no faster there, its attention takes memory by the gigabyte,
    /// and an int8 encoder would scale one window's activations by the loudest of all.
    fn encode(&mut self, mel: ArrayView3<'_, f32>, run: &RunGuard) -> Result<EncoderStates> {
        if self.runtime.device() == Device::Cuda || mel.len_of(Axis(0)) == 1 {
            return self.encode_batch(mel, run);
        }
        let windows = mel
            .axis_chunks_iter(Axis(0), 1)
            .map(|window| self.encode_batch(window, run));
        concatenate(windows.collect::<Result<Vec<_>>>()?)
    }
    fn start(
        &mut self,
        encoded: &EncoderStates,
        windows: &[usize],
        prompts: &[&[u32]],
        sot: usize,
        logits: &mut StartLogits,
        run: &RunGuard,
    ) -> Result<Cache> {
        let states = select_windows(&encoded.0, windows, run)?;
        let n_prompt = prompts.first().map_or(0, |prompt| prompt.len());
        let ids = token_ids(prompts.iter().copied(), n_prompt)?;
        let feed = Feed {
            ids: &ids,
            n_tokens: n_prompt,
            n_past: 0,
            states: &states,
            cache: None,
        };
        let mut outputs = self.prompt.run(&feed, run)?;
        let n_vocab = outputs.n_vocab;
        outputs.positions(
            windows.len(),
            n_prompt,
            &mut [(sot, &mut logits.at_sot), (n_prompt - 1, &mut logits.last)],
        )?;
        if n_vocab != self.dims.n_vocab {
            return Err(EngineError::graph(
                "decoding",
                format!(
                    "the decoder has {n_vocab} logits, config.json says {}",
                    self.dims.n_vocab
                ),
            ));
        }
        let cache = outputs.take_cache()?;
        Ok(Cache {
            decoder: cache.decoder,
            encoder: cache.encoder.into_iter().map(Arc::new).collect(),
            states,
            windows: windows.to_vec(),
            n_past: n_prompt,
        })
    }

    fn step(
        &mut self,
        state: &mut Cache,
        tokens: &[u32],
        logits: &mut Vec<f32>,
        run: &RunGuard,
    ) -> Result<()> {
        let ids = token_ids(tokens.chunks(1), 1)?;
        let feed = Feed {
            ids: &ids,
            n_tokens: 1,
            n_past: state.n_past,
            states: &state.states,
            cache: Some((&state.decoder, &state.encoder)),
        };
        let graph = self.step.as_mut().unwrap_or(&mut self.prompt);
        let mut outputs = graph.run(&feed, run)?;
        outputs.positions(tokens.len(), 1, &mut [(0, logits)])?;
        // The cached branch leaves the cross-attention tensors empty: those of the prompt stay.
        let decoder = outputs.take_cache()?.decoder;
        drop(outputs);
        state.decoder = decoder;
        state.n_past += 1;
        Ok(())
    }

    fn reorder(&mut self, state: &mut Cache, sources: &[usize]) -> Result<()> {
        let is_identity = sources.len() == state.windows.len()
            && sources.iter().enumerate().all(|(i, s)| i == *s);
        if is_identity {
            return Ok(());
        }
        for value in &mut state.decoder {
            *value = gather(value, sources)?;
        }
        let windows: Vec<usize> = sources
            .iter()
            .map(|&source| state.windows[source])
            .collect();
        // Beams that change places listen to the same audio.
        if windows != state.windows {
            for value in &mut state.encoder {
                *value = Arc::new(gather(value, sources)?);
            }
            state.windows = windows;
        }
        Ok(())
    }

    fn has_cross_attention(&self) -> bool {
        !matches!(self.timestamped, Timestamped::None)
    }

    fn attend(
        &mut self,
        encoded: &EncoderStates,
        windows: &[usize],
        sequences: &[Vec<u32>],
        heads: &[(usize, usize)],
        run: &RunGuard,
    ) -> Result<Vec<Array3<f32>>> {
        let graph = self.timestamped_graph()?;
        // One at a time: a large model's cross-attentions of one window already take hundreds of megabytes.
        windows
            .iter()
            .zip(sequences)
            .map(|(&window, tokens)| {
                let states = select_windows(&encoded.0, &[window], run)?;
                let ids = token_ids([tokens.as_slice()], tokens.len())?;
                let feed = Feed {
                    ids: &ids,
                    n_tokens: tokens.len(),
                    n_past: 0,
                    states: &states,
                    cache: None,
                };
                graph.run(&feed, run)?.cross_attentions(heads)
            })
            .collect()
    }

    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }
}

/// One batch of several.
fn concatenate(windows: Vec<EncoderStates>) -> Result<EncoderStates> {
    let failed = |error: ort::Error| EngineError::graph("collecting encoder states", error);
    let mut all = Vec::new();
    let mut shape = Vec::new();
    for EncoderStates(states) in &windows {
        let (window_shape, data) = states.try_extract_tensor::<f32>().map_err(failed)?;
        if shape.is_empty() {
            shape = window_shape.to_vec();
            all.reserve_exact(windows.len() * data.len());
        }
        all.extend_from_slice(data);
    }
    if let Some(n_windows) = shape.first_mut() {
        *n_windows = windows.len() as i64;
    }
    Ok(EncoderStates(Arc::new(
        Tensor::from_array((shape, all)).map_err(failed)?.into_dyn(),
    )))
}

/// Token ids as `[n_sequences, n_tokens]`.
fn token_ids<'t>(
    sequences: impl IntoIterator<Item = &'t [u32]>,
    n_tokens: usize,
) -> Result<Tensor<i64>> {
    let ids: Vec<i64> = sequences
        .into_iter()
        .flatten()
        .map(|&token| i64::from(token))
        .collect();
    let shape = [ids.len() / n_tokens.max(1), n_tokens];
    Tensor::from_array((shape, ids)).map_err(|error| EngineError::graph("preparing tokens", error))
}

/// The states of the windows that sequences listen to; shared when they are all of them in order.
fn select_windows(
    states: &Arc<DynValue>,
    windows: &[usize],
    run: &RunGuard,
) -> Result<Arc<DynValue>> {
    let (shape, _) = states
        .try_extract_tensor::<f32>()
        .map_err(|error| run.error("reading encoder states", error))?;
    let is_all =
        shape[0] as usize == windows.len() && windows.iter().enumerate().all(|(i, w)| i == *w);
    if is_all {
        Ok(Arc::clone(states))
    } else {
        Ok(Arc::new(gather(states, windows)?))
    }
}

/// Rows of a tensor's first dimension, in the order asked for.
fn gather(value: &DynValue, rows: &[usize]) -> Result<DynValue> {
    let failed = |error: ort::Error| EngineError::graph("rearranging sequences", error);
    let (shape, data) = value.try_extract_tensor::<f32>().map_err(failed)?;
    let row_length: usize = shape[1..].iter().map(|&size| size as usize).product();
    let mut gathered = Vec::with_capacity(rows.len() * row_length);
    for &row in rows {
        gathered.extend_from_slice(&data[row * row_length..(row + 1) * row_length]);
    }
    let mut new_shape = shape.to_vec();
    new_shape[0] = rows.len() as i64;
    Ok(Tensor::from_array((new_shape, gathered))
        .map_err(failed)?
        .into_dyn())
}
