//! One published decoder graph: which inputs it wants, which outputs it gives, and a run of it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{Array3, s};
use ort::memory::Allocator;
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{DynValue, Tensor, ValueType};

use crate::error::{EngineError, Result};
use crate::session::{RunGuard, Runtime, SessionOptions};

/// A decoder session with its inputs and outputs understood.
pub(super) struct DecoderGraph {
    path: PathBuf,
    session: Session,
    inputs: Vec<(String, Input)>,
    outputs: OutputNames,
    /// `use_cache_branch`: off, on.
    branch: [Tensor<bool>; 2],
    /// A past of length 0 for the merged graph's first call, by input.
    no_past: Vec<Option<DynValue>>,
}

/// What a decoder input wants. Caches are counted layer by layer, key before value.
#[derive(Debug, Clone, Copy)]
enum Input {
    TokenIds,
    EncoderStates,
    UseCacheBranch,
    CachePosition,
    DecoderPast(usize),
    EncoderPast(usize),
}

#[derive(Debug, Clone, Default)]
struct OutputNames {
    decoder_present: Vec<String>,
    encoder_present: Vec<String>,
    cross_attentions: Vec<String>,
}

/// The tensors of one call.
pub(super) struct Feed<'a> {
    /// `[n_sequences, n_tokens]`.
    pub ids: &'a Tensor<i64>,
    pub n_tokens: usize,
    pub n_past: usize,
    pub states: &'a DynValue,
    /// Self-attention and cross-attention caches; `None` in the first call.
    pub cache: Option<(&'a [DynValue], &'a [Arc<DynValue>])>,
}

/// Cache tensors as a call gives them.
pub(super) struct Present {
    pub decoder: Vec<DynValue>,
    pub encoder: Vec<DynValue>,
}

/// The answer of one call.
pub(super) struct Outputs<'a> {
    path: &'a Path,
    names: &'a OutputNames,
    values: SessionOutputs<'a>,
    /// Length of a row of logits.
    pub n_vocab: usize,
}

impl DecoderGraph {
    pub(super) fn load(runtime: &Runtime, path: &Path, options: &SessionOptions) -> Result<Self> {
        let session = runtime.session(path, options)?;
        let invalid = |message: String| EngineError::ModelInvalid {
            path: path.to_owned(),
            message,
        };
        let mut inputs = Vec::new();
        let mut no_past = Vec::new();
        for input in session.inputs() {
            let kind = input_kind(input.name()).ok_or_else(|| {
                invalid(format!(
                    "it wants an input {:?} that is not known",
                    input.name()
                ))
            })?;
            let empty = match kind {
                Input::DecoderPast(_) | Input::EncoderPast(_) => Some(
                    no_past_tensor(input.dtype()).map_err(|error| invalid(error.to_string()))?,
                ),
                _ => None,
            };
            inputs.push((input.name().to_owned(), kind));
            no_past.push(empty);
        }
        let outputs = output_names(&session);
        if !session
            .outputs()
            .iter()
            .any(|output| output.name() == "logits")
        {
            return Err(invalid("it has no output \"logits\"".to_owned()));
        }
        let flag = |on: bool| {
            Tensor::from_array(([1_usize], vec![on])).map_err(|error| invalid(error.to_string()))
        };
        let branch = [flag(false)?, flag(true)?];
        Ok(Self {
            path: path.to_owned(),
            session,
            inputs,
            outputs,
            branch,
            no_past,
        })
    }

    /// Layers whose cross-attention the graph outputs.
    pub(super) fn n_cross_attentions(&self) -> usize {
        self.outputs.cross_attentions.len()
    }

    pub(super) fn run<'s>(&'s mut self, feed: &Feed<'_>, run: &'s RunGuard) -> Result<Outputs<'s>> {
        let failed =
            |error: ort::Error| run.error(&format!("decoding with {}", self.path.display()), error);
        let positions = Tensor::from_array((
            [feed.n_tokens],
            (feed.n_past..feed.n_past + feed.n_tokens)
                .map(|at| at as i64)
                .collect::<Vec<_>>(),
        ))
        .map_err(failed)?;
        let missing = || EngineError::ModelInvalid {
            path: self.path.clone(),
            message: "the prompt's graph gives no cache for one of its inputs".to_owned(),
        };
        let mut values: Vec<(Cow<'_, str>, SessionInputValue<'_>)> =
            Vec::with_capacity(self.inputs.len());
        for ((name, input), no_past) in self.inputs.iter().zip(&self.no_past) {
            let value: SessionInputValue<'_> = match (*input, feed.cache) {
                (Input::TokenIds, _) => feed.ids.into(),
                (Input::EncoderStates, _) => feed.states.into(),
                (Input::UseCacheBranch, cache) => {
                    (&self.branch[usize::from(cache.is_some())]).into()
                }
                (Input::CachePosition, _) => (&positions).into(),
                (Input::DecoderPast(at), Some((decoder, _))) => {
                    decoder.get(at).ok_or_else(missing)?.into()
                }
                (Input::EncoderPast(at), Some((_, encoder))) => {
                    (&**encoder.get(at).ok_or_else(missing)?).into()
                }
                (Input::DecoderPast(_) | Input::EncoderPast(_), None) => {
                    no_past.as_ref().ok_or_else(missing)?.into()
                }
            };
            values.push((Cow::Borrowed(name.as_str()), value));
        }
        let outputs = self
            .session
            .run_with_options(values, run.options())
            .map_err(failed)?;
        let n_vocab = outputs
            .get("logits")
            .and_then(|logits| logits.try_extract_tensor::<f32>().ok()?.0.last().copied())
            .ok_or_else(|| EngineError::graph("decoding", "the decoder gives no float logits"))?;
        Ok(Outputs {
            path: &self.path,
            names: &self.outputs,
            values: outputs,
            n_vocab: n_vocab as usize,
        })
    }
}

impl Outputs<'_> {
    /// Copies the logits at some positions of every sequence, `[n_sequences, n_vocab]` for each.
    pub(super) fn positions(
        &mut self,
        n_sequences: usize,
        n_tokens: usize,
        wanted: &mut [(usize, &mut Vec<f32>)],
    ) -> Result<()> {
        let failed = |error: ort::Error| EngineError::graph("reading logits", error);
        let logits = self
            .values
            .get("logits")
            .ok_or_else(|| EngineError::graph("reading logits", "none"))?;
        let (shape, data) = logits.try_extract_tensor::<f32>().map_err(failed)?;
        if shape[..] != [n_sequences as i64, n_tokens as i64, self.n_vocab as i64] {
            return Err(EngineError::graph(
                "reading logits",
                format!("unexpected shape {shape:?}"),
            ));
        }
        for (position, rows) in wanted {
            rows.clear();
            for sequence in 0..n_sequences {
                let at = (sequence * n_tokens + *position) * self.n_vocab;
                rows.extend_from_slice(&data[at..at + self.n_vocab]);
            }
        }
        Ok(())
    }

    /// Moves the cache out.
    pub(super) fn take_cache(&mut self) -> Result<Present> {
        let mut take = |names: &[String]| {
            let values = names
                .iter()
                .map(|name| self.values.remove(name))
                .collect::<Option<Vec<_>>>();
            values.ok_or_else(|| EngineError::ModelInvalid {
                path: self.path.to_owned(),
                message: "it does not give the cache it declares".to_owned(),
            })
        };
        Ok(Present {
            decoder: take(&self.names.decoder_present)?,
            encoder: take(&self.names.encoder_present)?,
        })
    }

    /// Weights of some `(layer, head)` of the only sequence, `[n_heads, n_tokens, n_audio_ctx]`.
    pub(super) fn cross_attentions(&self, heads: &[(usize, usize)]) -> Result<Array3<f32>> {
        let failed = |message: String| EngineError::graph("reading cross-attentions", message);
        let mut selected: Option<Array3<f32>> = None;
        for (at, (layer, head)) in heads.iter().enumerate() {
            let value = self
                .names
                .cross_attentions
                .get(*layer)
                .and_then(|name| self.values.get(name));
            let value =
                value.ok_or_else(|| failed(format!("the export has none for layer {layer}")))?;
            let weights = value
                .try_extract_array::<f32>()
                .map_err(|error| failed(error.to_string()))?;
            let weights = weights
                .into_dimensionality::<ndarray::Ix4>()
                .map_err(|error| failed(error.to_string()))?;
            let (_, n_heads, n_tokens, n_audio_ctx) = weights.dim();
            if *head >= n_heads {
                return Err(failed(format!("layer {layer} has no head {head}")));
            }
            let selected =
                selected.get_or_insert_with(|| Array3::zeros((heads.len(), n_tokens, n_audio_ctx)));
            selected
                .slice_mut(s![at, .., ..])
                .assign(&weights.slice(s![0, *head, .., ..]));
        }
        selected.ok_or_else(|| failed("no heads were asked for".to_owned()))
    }
}

fn input_kind(name: &str) -> Option<Input> {
    match name {
        "input_ids" => return Some(Input::TokenIds),
        "encoder_hidden_states" => return Some(Input::EncoderStates),
        "use_cache_branch" => return Some(Input::UseCacheBranch),
        "cache_position" => return Some(Input::CachePosition),
        _ => {}
    }
    let mut parts = name.strip_prefix("past_key_values.")?.split('.');
    let layer: usize = parts.next()?.parse().ok()?;
    let attention = parts.next()?;
    let at = 2 * layer + usize::from(parts.next()? == "value");
    match attention {
        "decoder" => Some(Input::DecoderPast(at)),
        "encoder" => Some(Input::EncoderPast(at)),
        _ => None,
    }
}

/// The graph's outputs by meaning, in order of layer, key before value.
fn output_names(session: &Session) -> OutputNames {
    let layers = |prefix: &str, suffix: &str| {
        let named = |layer: usize| format!("{prefix}.{layer}{suffix}");
        let has = |name: &String| session.outputs().iter().any(|output| output.name() == name);
        (0..).map(named).take_while(has).collect::<Vec<_>>()
    };
    let keys_and_values = |attention: &str| {
        let keys = layers("present", &format!(".{attention}.key"));
        let values = layers("present", &format!(".{attention}.value"));
        keys.into_iter()
            .zip(values)
            .flat_map(|(key, value)| [key, value])
            .collect()
    };
    OutputNames {
        decoder_present: keys_and_values("decoder"),
        encoder_present: keys_and_values("encoder"),
        cross_attentions: layers("cross_attentions", ""),
    }
}

/// `[1, n_heads, 0, d_head]`, with the sizes the graph declares.
fn no_past_tensor(declared: &ValueType) -> ort::Result<DynValue> {
    let mut shape = match declared {
        ValueType::Tensor { shape, .. } => shape.to_vec(),
        _ => Vec::new(),
    };
    shape.resize(4, 1);
    shape[0] = 1;
    shape[2] = 0;
    for size in &mut shape {
        *size = (*size).max(0);
    }
    Ok(Tensor::<f32>::new(&Allocator::default(), shape)?.into_dyn())
}
