//! The rewritten graphs ([`crate::graph`]) as a [`Backend`]: cross-attention keys and values packed when a window is
//! encoded, a cache that is written in place, logits of the wanted positions only. Sequences are rearranged by
//! renumbering: one leaves, and beams change places, without a copy.
//!
//! Windows are encoded one at a time. Dynamic quantisation takes its scale from everything in a call, so a window's
//! result would otherwise depend on its neighbours; and there is nothing to gain, a window fills the processor.

mod cache;
mod packed;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use ndarray::{Array3, ArrayView3, Axis, s};
use ort::session::{Session, SessionInputValue};
use ort::value::{Tensor, TensorRef};

use crate::error::{EngineError, Result};
use crate::graph::correlation;
use crate::graph::rewrite::attention_name;
use crate::graph::stored::beside_model;
use crate::graph::{Arithmetic, GraphError, OptimizedWhisper, Shape, optimize_whisper};
use crate::model_folder::{DecoderGraphs, ModelFolder, Precision};
use crate::session::{Device, RunGuard, Runtime, SessionOptions};
use crate::whisper::backend::{Backend, Dims, StartLogits};
use crate::whisper::model::PublishedModel;
use cache::Cache;
use packed::PackedWindows;

/// Least correlation of logits with the published graphs' for new graphs to be believed: floats must agree, bytes
/// round differently.
const AGREEMENT: [(Arithmetic, f64); 2] = [(Arithmetic::Float, 0.999_99), (Arithmetic::Int8, 0.98)];

/// A Whisper network run from rewritten graphs.
pub struct OptimizedModel {
    dims: Dims,
    shape: Shape,
    runtime: Runtime,
    options: SessionOptions,
    graphs: OptimizedWhisper,
    encoder: Session,
    decoder: Session,
    /// Loaded when words first want times.
    alignment: Option<Session>,
}

/// Packed cross-attention keys and values of some windows.
pub struct EncodedWindows(Arc<PackedWindows>);

/// A batch in progress.
pub struct Batch {
    encoded: Arc<PackedWindows>,
    windows: Vec<i32>,
    slots: Vec<i32>,
    cache: Cache,
    past: usize,
}

/// Tokens of a call and the positions whose logits are wanted.
struct Feed<'a> {
    tokens: Tensor<i64>,
    n_tokens: usize,
    past: usize,
    windows: &'a [i32],
    slots: &'a [i32],
    /// `(sequence, position)`; `None` in the alignment graph, which has no logits.
    chosen: Option<Vec<i64>>,
}

impl OptimizedModel {
    /// Loads a folder's graphs, rewritten: written now, or by an earlier call into `optimized/` in the folder (beside
    /// the system's temporary files when the folder is read-only). Graphs that are new are compared with the published
    /// ones first.
    ///
    /// # Errors
    /// [`GraphError`] when there is nothing to gain or to be had: the device is not the CPU, or the published graphs
    /// are not recognised, or the new ones disagree with them. [`PublishedModel`] does the work then.
    pub fn load(
        runtime: &Runtime,
        folder: &ModelFolder,
        threads: usize,
    ) -> Result<Self, GraphError> {
        if runtime.device() != Device::Cpu {
            return Err(GraphError::invalid(
                "the rewritten graphs run on the CPU only",
            ));
        }
        let shape = read_shape(folder)?;
        let arithmetic = match folder.graphs.precision {
            Precision::Int8 => Arithmetic::Int8,
            Precision::Float | Precision::Auto => Arithmetic::Float,
        };
        let decoder = match &folder.graphs.decoder {
            DecoderGraphs::Merged(path) => path,
            DecoderGraphs::WithPast { prompt, .. } => prompt,
        };
        let write =
            |out: &Path| optimize_whisper(&folder.graphs.encoder, decoder, &shape, arithmetic, out);
        let graphs = beside_model(&folder.path, write)?;
        let session = |path: &Path, options: &SessionOptions| {
            runtime
                .session(path, options)
                .map_err(|error| GraphError::invalid(error.to_string()))
        };
        let options = SessionOptions {
            threads,
            cpu_only: true,
            ..SessionOptions::default()
        };
        let mut model = Self {
            dims: folder.dims.clone(),
            shape,
            runtime: runtime.clone(),
            encoder: session(&graphs.encoder, &options)?,
            decoder: session(&graphs.decoder, &options)?,
            options,
            graphs,
            alignment: None,
        };
        if model.graphs.stored.is_new
            && let Err(error) = model.compare_with_published(folder, threads)
        {
            model.graphs.stored.remove()?;
            return Err(error);
        }
        Ok(model)
    }

    /// Runs both on the same made-up window and prompt.
    fn compare_with_published(
        &mut self,
        folder: &ModelFolder,
        threads: usize,
    ) -> Result<(), GraphError> {
        let failed = |error: EngineError| GraphError::invalid(error.to_string());
        let mut published = PublishedModel::load(&self.runtime, folder, threads).map_err(failed)?;
        let run = RunGuard::new().map_err(failed)?;
        let ours = first_logits(self, folder, &run).map_err(failed)?;
        let theirs = first_logits(&mut published, folder, &run).map_err(failed)?;
        let least = AGREEMENT
            .iter()
            .find(|(arithmetic, _)| *arithmetic == self.graphs.arithmetic);
        let least = least.map_or(1.0, |(_, least)| *least);
        let agreement = correlation(&ours, &theirs);
        // A comparison with NaN is false.
        if agreement >= least {
            tracing::info!(agreement, folder = %folder.path.display(), "the model's graphs were rewritten");
            Ok(())
        } else {
            Err(GraphError::invalid(format!(
                "the rewritten graphs' logits agree with the published ones' by {agreement:.5} only"
            )))
        }
    }

    fn tokens<'t>(
        sequences: impl Iterator<Item = &'t [u32]>,
        n_tokens: usize,
    ) -> ort::Result<Tensor<i64>> {
        let tokens: Vec<i64> = sequences.flatten().map(|&token| i64::from(token)).collect();
        Tensor::from_array(([tokens.len() / n_tokens.max(1), n_tokens], tokens))
    }

    fn logits(
        &mut self,
        encoded: &PackedWindows,
        cache: &mut Cache,
        feed: Feed<'_>,
        run: &RunGuard,
        take: impl FnOnce(&[f32]),
    ) -> Result<()> {
        let failed = |error: ort::Error| run.error("decoding", error);
        let inputs = inputs(encoded, cache, feed).map_err(failed)?;
        let outputs = self
            .decoder
            .run_with_options(inputs, run.options())
            .map_err(failed)?;
        let (_, logits) = outputs["logits"]
            .try_extract_tensor::<f32>()
            .map_err(failed)?;
        take(logits);
        Ok(())
    }
}

/// A session's inputs. The cache is lent mutably because the graph writes to it.
fn inputs<'v>(
    encoded: &'v PackedWindows,
    cache: &'v mut Cache,
    feed: Feed<'_>,
) -> ort::Result<Vec<(Cow<'v, str>, SessionInputValue<'v>)>> {
    let positions: Vec<i64> = (feed.past..feed.past + feed.n_tokens)
        .map(|at| at as i64)
        .collect();
    let n = feed.slots.len();
    let mut inputs: Vec<(Cow<'v, str>, SessionInputValue<'v>)> = vec![
        ("tokens".into(), feed.tokens.into()),
        (
            "positions".into(),
            Tensor::from_array(([feed.n_tokens], positions))?.into(),
        ),
        (
            "past".into(),
            Tensor::from_array(([1_usize], vec![feed.past as i64]))?.into(),
        ),
        (
            "slots".into(),
            Tensor::from_array(([n], feed.slots.to_vec()))?.into(),
        ),
        (
            "windows".into(),
            Tensor::from_array(([n], feed.windows.to_vec()))?.into(),
        ),
    ];
    if let Some(chosen) = feed.chosen {
        inputs.push((
            "chosen".into(),
            Tensor::from_array(([chosen.len() / 2, 2], chosen))?.into(),
        ));
    }
    inputs.extend(cache.inputs());
    inputs.extend(encoded.inputs());
    Ok(inputs)
}

impl Backend for OptimizedModel {
    type Encoded = EncodedWindows;
    type State = Batch;

    const LEAVES_WITHOUT_COPY: bool = true;

    fn dims(&self) -> &Dims {
        &self.dims
    }

    fn encode(&mut self, mel: ArrayView3<'_, f32>, run: &RunGuard) -> Result<EncodedWindows> {
        let failed = |error: ort::Error| run.error("encoding audio", error);
        let layers = self.graphs.stored.n_layers;
        let mut packed = PackedWindows::builder(
            self.graphs.arithmetic,
            layers,
            &self.shape,
            mel.len_of(Axis(0)),
        );
        for window in mel.axis_chunks_iter(Axis(0), 1) {
            run.check()?;
            let features = TensorRef::from_array_view(window).map_err(failed)?;
            let outputs = self
                .encoder
                .run_with_options(ort::inputs!["input_features" => features], run.options())
                .map_err(failed)?;
            packed.push(&outputs).map_err(failed)?;
        }
        Ok(EncodedWindows(Arc::new(packed.finish().map_err(failed)?)))
    }

    fn start(
        &mut self,
        encoded: &EncodedWindows,
        windows: &[usize],
        prompts: &[&[u32]],
        sot: usize,
        logits: &mut StartLogits,
        run: &RunGuard,
    ) -> Result<Batch> {
        let n = windows.len();
        let n_tokens = prompts.first().map_or(0, |prompt| prompt.len());
        let failed = |error: ort::Error| run.error("starting to decode", error);
        let mut batch = Batch {
            encoded: Arc::clone(&encoded.0),
            windows: windows.iter().map(|&window| window as i32).collect(),
            slots: (0..n as i32).collect(),
            cache: Cache::new(&self.shape, self.graphs.stored.n_layers, n, n_tokens)
                .map_err(failed)?,
            past: n_tokens,
        };
        let at =
            |position: usize| (0..n as i64).flat_map(move |sequence| [sequence, position as i64]);
        let feed = Feed {
            tokens: Self::tokens(prompts.iter().copied(), n_tokens).map_err(failed)?,
            n_tokens,
            past: 0,
            windows: &batch.windows,
            slots: &batch.slots,
            chosen: Some(at(sot).chain(at(n_tokens.saturating_sub(1))).collect()),
        };
        self.logits(&batch.encoded, &mut batch.cache, feed, run, |all| {
            let (at_sot, last) = all.split_at(all.len() / 2);
            logits.at_sot.clear();
            logits.at_sot.extend_from_slice(at_sot);
            logits.last.clear();
            logits.last.extend_from_slice(last);
        })?;
        Ok(batch)
    }

    fn step(
        &mut self,
        state: &mut Batch,
        tokens: &[u32],
        logits: &mut Vec<f32>,
        run: &RunGuard,
    ) -> Result<()> {
        let failed = |error: ort::Error| run.error("decoding", error);
        state
            .cache
            .reserve(state.past + 1, &state.slots, state.past)
            .map_err(failed)?;
        let feed = Feed {
            tokens: Self::tokens(tokens.chunks(1), 1).map_err(failed)?,
            n_tokens: 1,
            past: state.past,
            windows: &state.windows,
            slots: &state.slots,
            chosen: Some(
                (0..tokens.len() as i64)
                    .flat_map(|sequence| [sequence, 0])
                    .collect(),
            ),
        };
        self.logits(&state.encoded, &mut state.cache, feed, run, |all| {
            logits.clear();
            logits.extend_from_slice(all);
        })?;
        state.past += 1;
        Ok(())
    }

    fn reorder(&mut self, state: &mut Batch, sources: &[usize]) -> Result<()> {
        let failed = |error: ort::Error| EngineError::graph("rearranging sequences", error);
        state.slots = state
            .cache
            .rearrange(&state.slots, sources, state.past)
            .map_err(failed)?;
        state.windows = sources
            .iter()
            .map(|&source| state.windows[source])
            .collect();
        Ok(())
    }

    fn has_cross_attention(&self) -> bool {
        true
    }

    fn attend(
        &mut self,
        encoded: &EncodedWindows,
        windows: &[usize],
        sequences: &[Vec<u32>],
        heads: &[(usize, usize)],
        run: &RunGuard,
    ) -> Result<Vec<Array3<f32>>> {
        let failed = |error: ort::Error| run.error("aligning words", error);
        let session = match &mut self.alignment {
            Some(session) => session,
            none => none.insert(
                self.runtime
                    .session(&self.graphs.alignment, &self.options)?,
            ),
        };
        let mut answers = Vec::with_capacity(windows.len());
        // One at a time: a large model's cross-attentions of one window already take hundreds of megabytes.
        for (&window, tokens) in windows.iter().zip(sequences) {
            let n_tokens = tokens.len();
            let mut cache = Cache::new(&self.shape, self.graphs.stored.n_layers, 1, n_tokens)
                .map_err(failed)?;
            let feed = Feed {
                tokens: Self::tokens([tokens.as_slice()].into_iter(), n_tokens).map_err(failed)?,
                n_tokens,
                past: 0,
                windows: &[window as i32],
                slots: &[0],
                chosen: None,
            };
            let inputs = inputs(&encoded.0, &mut cache, feed).map_err(failed)?;
            let outputs = session
                .run_with_options(inputs, run.options())
                .map_err(failed)?;
            let mut chosen = Array3::zeros((heads.len(), n_tokens, self.shape.n_ctx));
            for (at, &(layer, head)) in heads.iter().enumerate() {
                let weights = outputs
                    .get(attention_name(layer))
                    .filter(|_| head < self.shape.decoder_heads)
                    .ok_or_else(|| {
                        EngineError::graph(
                            "aligning words",
                            format!("layer {layer} has no head {head}"),
                        )
                    })?;
                let weights = weights.try_extract_array::<f32>().map_err(failed)?;
                chosen
                    .slice_mut(s![at, .., ..])
                    .assign(&weights.slice(s![0, head, .., ..]));
            }
            answers.push(chosen);
        }
        Ok(answers)
    }

    fn weight_bytes(&self) -> u64 {
        self.graphs.stored.weight_bytes
    }
}

/// Sizes from `config.json`.
fn read_shape(folder: &ModelFolder) -> Result<Shape, GraphError> {
    let path = folder.path.join("config.json");
    let text = std::fs::read(&path).map_err(|error| GraphError::io(&path, error))?;
    let config: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| GraphError::invalid(format!("{}: {error}", path.display())))?;
    let size = |key: &str| {
        let size = config
            .get(key)
            .and_then(serde_json::Value::as_u64)
            .filter(|&size| size > 0);
        size.map(|size| size as usize)
            .ok_or_else(|| GraphError::invalid(format!("config.json has no {key}")))
    };
    let shape = Shape {
        n_mels: folder.dims.n_mels,
        n_ctx: folder.dims.n_audio_ctx,
        width: size("d_model")?,
        encoder_heads: size("encoder_attention_heads")?,
        decoder_heads: folder.dims.n_text_head,
        n_text_ctx: folder.dims.n_text_ctx,
        n_vocab: folder.dims.n_vocab,
    };
    let whole = |heads: usize| shape.width.is_multiple_of(4 * heads);
    if whole(shape.encoder_heads) && whole(shape.decoder_heads) {
        Ok(shape)
    } else {
        Err(GraphError::invalid(
            "the heads do not divide the width into multiples of 4",
        ))
    }
}

/// Logits after a short prompt over a made-up window.
fn first_logits<B: Backend>(
    backend: &mut B,
    folder: &ModelFolder,
    run: &RunGuard,
) -> Result<Vec<f32>> {
    let dims = backend.dims().clone();
    let mel = Array3::from_shape_fn((1, dims.n_mels, dims.n_frames), |(_, band, frame)| {
        let phase = frame as f32 * 0.02 * (1.0 + band as f32 * 0.1);
        phase.sin() * 0.5
    });
    let encoded = backend.encode(mel.view(), run)?;
    let prompt = [folder.tokens.sot, folder.tokens.no_timestamps, 0];
    let mut logits = StartLogits::default();
    let mut state = backend.start(&encoded, &[0], &[&prompt], 0, &mut logits, run)?;
    let mut all = logits.last;
    let mut next = Vec::new();
    backend.step(&mut state, &[1], &mut next, run)?;
    all.extend(next);
    Ok(all)
}
