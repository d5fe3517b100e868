//! Reads a model folder in the layout Whisper exports are published in (onnx-community, optimum, onnx-asr): which graphs
//! are there and which to run, and every size and token id from its own files. Nothing is guessed from a name.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{EngineError, Result};
use crate::session::Device;
use crate::whisper::backend::Dims;

/// Which weights to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// int8 on the CPU where the folder has it, float on CUDA.
    #[default]
    Auto,
    /// Full precision.
    Float,
    /// Dynamically quantised to 8 bits.
    Int8,
}

/// The graph files chosen from a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graphs {
    /// The precision chosen: [`Precision::Float`] or [`Precision::Int8`].
    pub precision: Precision,
    /// Mel → encoder states.
    pub encoder: PathBuf,
    /// Tokens → logits.
    pub decoder: DecoderGraphs,
    /// A decoder that also outputs cross-attentions, when it is not `decoder` itself.
    pub timestamped_decoder: Option<PathBuf>,
}

/// The decoder in one of its two published forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecoderGraphs {
    /// One graph with a `use_cache_branch` switch.
    Merged(PathBuf),
    /// One graph for the prompt and one for each later token.
    WithPast {
        /// `decoder_model`: no cache in, cache out.
        prompt: PathBuf,
        /// `decoder_with_past_model`: cache in and out.
        step: PathBuf,
    },
}

impl Graphs {
    /// Bytes of the graph files and the weights beside them that are loaded for transcription.
    pub fn bytes(&self) -> u64 {
        let decoder = match &self.decoder {
            DecoderGraphs::Merged(path) => file_bytes(path),
            DecoderGraphs::WithPast { prompt, step } => file_bytes(prompt) + file_bytes(step),
        };
        file_bytes(&self.encoder) + decoder
    }
}

/// Whether a graph has an output of that name. The protobuf holds names in plain text, and a graph's outputs after its
/// weights, so the end of a file of hundreds of megabytes is enough.
fn has_output(graph: &Path, name: &str) -> bool {
    const TAIL: u64 = 4 << 20;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(graph)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(tail)
    };
    read().is_ok_and(|tail| {
        tail.windows(name.len())
            .any(|bytes| bytes == name.as_bytes())
    })
}

/// A graph and its external weights (`x.onnx_data`, `x.onnx.data`).
fn file_bytes(graph: &Path) -> u64 {
    let beside = |suffix: &str| {
        let mut name = graph.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    [graph.to_owned(), beside("_data"), beside(".data")]
        .iter()
        .filter_map(|path| Some(std::fs::metadata(path).ok()?.len()))
        .sum()
}

/// Token ids with a meaning of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `<|endoftext|>`: every id below it is text.
    pub eot: u32,
    /// `<|startoftranscript|>`.
    pub sot: u32,
    /// `<|startofprev|>`, when the vocabulary has it.
    pub sot_prev: Option<u32>,
    /// `<|nospeech|>` (or `<|nocaptions|>`), when the vocabulary has it.
    pub no_speech: Option<u32>,
    /// `<|notimestamps|>`.
    pub no_timestamps: u32,
    /// `<|0.00|>`; every id from it on is a time.
    pub timestamp_begin: u32,
    /// `<|transcribe|>`; `None` in English-only models.
    pub transcribe: Option<u32>,
    /// `<|translate|>`; `None` in English-only models.
    pub translate: Option<u32>,
    /// Language code → token, in order of token; empty in English-only models.
    pub languages: Vec<(String, u32)>,
}

impl SpecialTokens {
    /// The token of a language code.
    pub fn language(&self, code: &str) -> Option<u32> {
        self.languages
            .iter()
            .find(|(known, _)| known == code)
            .map(|(_, token)| *token)
    }

    /// The code of a language token.
    pub fn language_code(&self, token: u32) -> Option<&str> {
        self.languages
            .iter()
            .find(|(_, known)| *known == token)
            .map(|(code, _)| code.as_str())
    }
}

/// Features the network expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureConfig {
    /// Samples of a Fourier transform.
    pub n_fft: usize,
    /// Samples between frames.
    pub hop_length: usize,
    /// Mel bands.
    pub n_mels: usize,
    /// Samples of a window.
    pub n_samples: usize,
}

/// Everything a folder says about its model, and its graphs.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    /// The folder.
    pub path: PathBuf,
    /// The graphs chosen.
    pub graphs: Graphs,
    /// Sizes.
    pub dims: Dims,
    /// Feature extraction.
    pub features: FeatureConfig,
    /// Special tokens.
    pub tokens: SpecialTokens,
    /// Tokens never to emit; `None` leaves the choice to the tokenizer's list of non-speech symbols.
    pub suppress_tokens: Option<Vec<u32>>,
    /// Tokens not to begin with.
    pub begin_suppress_tokens: Option<Vec<u32>>,
    /// Latest first time token, counted from `<|0.00|>`.
    pub max_initial_timestamp_index: Option<u32>,
    /// Longest sequence to generate, prompt included.
    pub max_length: usize,
    /// `(layer, head)` whose cross-attention follows time; `None` when the export does not say.
    pub alignment_heads: Option<Vec<(usize, usize)>>,
    /// Width of the median filter over cross-attention.
    pub median_filter_width: usize,
}

impl ModelFolder {
    /// Reads a folder and chooses graphs for a device.
    ///
    /// # Errors
    /// [`EngineError::ModelFileMissing`] naming the file, [`EngineError::ModelInvalid`] for files that contradict
    /// themselves.
    pub fn read(path: &Path, precision: Precision, device: Device) -> Result<Self> {
        let config = Json::required(path, "config.json")?;
        let generation =
            Json::optional(path, "generation_config.json")?.unwrap_or_else(|| config.clone());
        let preprocessor = Json::optional(path, "preprocessor_config.json")?;
        let either = |key: &str| generation.get(key).or_else(|| config.get(key));

        if config
            .get("model_type")
            .is_some_and(|kind| kind != "whisper")
        {
            return Err(config.invalid("model_type is not whisper".into()));
        }
        let n_mels = config.size("num_mel_bins")?;
        let dims = Dims {
            n_mels,
            n_frames: 2 * config.size("max_source_positions")?,
            n_audio_ctx: config.size("max_source_positions")?,
            n_text_ctx: config.size("max_target_positions")?,
            n_text_layer: config.size("decoder_layers")?,
            n_text_head: config.size("decoder_attention_heads")?,
            n_vocab: config.size("vocab_size")?,
        };
        let features = feature_config(preprocessor.as_ref(), &dims)?;
        let named = read_added_tokens(path)?;
        let tokens = special_tokens(&config, &generation, &named)?;
        Ok(Self {
            path: path.to_owned(),
            graphs: choose_graphs(path, precision, device)?,
            features,
            tokens,
            suppress_tokens: either("suppress_tokens").and_then(token_list),
            begin_suppress_tokens: either("begin_suppress_tokens").and_then(token_list),
            max_initial_timestamp_index: either("max_initial_timestamp_index").and_then(token),
            max_length: either("max_length")
                .and_then(token)
                .map_or(dims.n_text_ctx, |length| length as usize)
                // A plain config.json carries the library's default of 20, which is no property of the model.
                .max(dims.n_text_ctx / 2)
                .min(dims.n_text_ctx),
            alignment_heads: generation.get("alignment_heads").and_then(head_list),
            median_filter_width: config
                .get("median_filter_width")
                .and_then(token)
                .unwrap_or(7) as usize,
            dims,
        })
    }

    /// Whether the model knows more than English.
    pub fn is_multilingual(&self) -> bool {
        !self.tokens.languages.is_empty()
    }

    /// Whether a decoder of the folder outputs cross-attentions, by the names its graph file holds.
    pub fn has_cross_attention(&self) -> bool {
        let prompt = match &self.graphs.decoder {
            DecoderGraphs::Merged(path) | DecoderGraphs::WithPast { prompt: path, .. } => path,
        };
        self.graphs.timestamped_decoder.is_some() || has_output(prompt, "cross_attentions.0")
    }
}

/// A JSON object and the file it is from.
#[derive(Clone)]
struct Json {
    path: PathBuf,
    value: Value,
}

impl Json {
    fn optional(folder: &Path, name: &str) -> Result<Option<Self>> {
        let path = folder.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let invalid = |message: String| EngineError::ModelInvalid {
            path: path.clone(),
            message,
        };
        let text = std::fs::read_to_string(&path).map_err(|error| invalid(error.to_string()))?;
        let value = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        Ok(Some(Self { path, value }))
    }

    fn required(folder: &Path, name: &str) -> Result<Self> {
        Self::optional(folder, name)?.ok_or_else(|| EngineError::ModelFileMissing {
            folder: folder.to_owned(),
            file: name.to_owned(),
            remedy: "fetch the folder again, it is not a complete Whisper export".to_owned(),
        })
    }

    /// `null` counts as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.get(key)
            .and_then(Value::as_u64)
            .and_then(|size| usize::try_from(size).ok())
            .filter(|&size| size > 0)
            .ok_or_else(|| self.invalid(format!("{key} is missing or not a positive number")))
    }

    fn invalid(&self, message: String) -> EngineError {
        EngineError::ModelInvalid {
            path: self.path.clone(),
            message,
        }
    }
}

fn token(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn token_list(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(token).collect()
}

fn head_list(value: &Value) -> Option<Vec<(usize, usize)>> {
    let pair = |head: &Value| {
        let head = head.as_array()?;
        Some((
            token(head.first()?)? as usize,
            token(head.get(1)?)? as usize,
        ))
    };
    value
        .as_array()?
        .iter()
        .map(pair)
        .collect::<Option<Vec<_>>>()
        .filter(|heads| !heads.is_empty())
}

fn feature_config(preprocessor: Option<&Json>, dims: &Dims) -> Result<FeatureConfig> {
    const N_FFT: usize = 400;
    const HOP_LENGTH: usize = 160;
    let standard = FeatureConfig {
        n_fft: N_FFT,
        hop_length: HOP_LENGTH,
        n_mels: dims.n_mels,
        n_samples: dims.n_frames * HOP_LENGTH,
    };
    let Some(file) = preprocessor else {
        return Ok(standard);
    };
    let or = |key: &str, default: usize| {
        file.get(key)
            .and_then(token)
            .map_or(default, |value| value as usize)
    };
    let features = FeatureConfig {
        n_fft: or("n_fft", N_FFT),
        hop_length: or("hop_length", HOP_LENGTH),
        n_mels: or("feature_size", dims.n_mels),
        n_samples: or("n_samples", standard.n_samples),
    };
    let rate = or("sampling_rate", 16_000);
    if rate != 16_000 {
        return Err(file.invalid(format!(
            "sampling_rate is {rate}; only 16000 Hz models are supported"
        )));
    }
    if features.n_mels != dims.n_mels
        || features.n_samples / features.hop_length.max(1) != dims.n_frames
    {
        return Err(file.invalid(format!(
            "its {} mel bands and {} samples a window do not fit config.json's {} and {} frames",
            features.n_mels, features.n_samples, dims.n_mels, dims.n_frames
        )));
    }
    Ok(features)
}

/// Added tokens by their text, from `tokenizer.json` or, without it, `added_tokens.json` and `vocab.json`.
fn read_added_tokens(folder: &Path) -> Result<HashMap<String, u32>> {
    let mut named = HashMap::new();
    let mut add = |json: &Json| {
        let entries = json.value.as_object().into_iter().flatten();
        named.extend(entries.filter_map(|(text, id)| Some((text.clone(), token(id)?))));
    };
    for name in ["vocab.json", "added_tokens.json"] {
        Json::optional(folder, name)?.iter().for_each(&mut add);
    }
    if let Some(tokenizer) = Json::optional(folder, "tokenizer.json")? {
        let added = tokenizer
            .get("added_tokens")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        named.extend(added.filter_map(|entry| {
            Some((
                entry.get("content")?.as_str()?.to_owned(),
                token(entry.get("id")?)?,
            ))
        }));
    }
    Ok(named)
}

fn special_tokens(
    config: &Json,
    generation: &Json,
    named: &HashMap<String, u32>,
) -> Result<SpecialTokens> {
    let from_files = |key: &str| generation.get(key).or_else(|| config.get(key));
    let by_key = |key: &str| {
        from_files(key).and_then(|value| token(value).or_else(|| token(value.as_array()?.first()?)))
    };
    let by_text = |text: &str| named.get(text).copied();
    let required = |found: Option<u32>, what: &str| {
        found.ok_or_else(|| {
            generation.invalid(format!("neither it nor the tokenizer's files name {what}"))
        })
    };
    let eot = required(
        by_key("eos_token_id").or_else(|| by_text("<|endoftext|>")),
        "<|endoftext|>",
    )?;
    let sot = required(
        by_key("decoder_start_token_id").or_else(|| by_text("<|startoftranscript|>")),
        "<|startoftranscript|>",
    )?;
    let no_timestamps = required(
        by_key("no_timestamps_token_id").or_else(|| by_text("<|notimestamps|>")),
        "<|notimestamps|>",
    )?;
    let languages = languages(config, generation, named);
    let task = |name: &str| {
        let listed = generation
            .get("task_to_id")
            .and_then(|tasks| token(tasks.get(name)?));
        listed
            .or_else(|| by_text(&format!("<|{name}|>")))
            .filter(|_| !languages.is_empty())
    };
    Ok(SpecialTokens {
        eot,
        sot,
        sot_prev: by_key("prev_sot_token_id").or_else(|| by_text("<|startofprev|>")),
        no_speech: by_text("<|nospeech|>").or_else(|| by_text("<|nocaptions|>")),
        no_timestamps,
        timestamp_begin: by_text("<|0.00|>").unwrap_or(no_timestamps + 1),
        transcribe: task("transcribe"),
        translate: task("translate"),
        languages,
    })
}

/// Languages from `lang_to_id`; exports older than that key only have the tokens, between `<|startoftranscript|>` and
/// the task tokens. A model that says it is not multilingual has none: its language tokens were never trained.
fn languages(config: &Json, generation: &Json, named: &HashMap<String, u32>) -> Vec<(String, u32)> {
    let code = |text: &str| {
        let inner = text.strip_prefix("<|")?.strip_suffix("|>")?;
        let letters = inner.bytes().all(|byte| byte.is_ascii_lowercase());
        ((2..=3).contains(&inner.len()) && letters).then(|| inner.to_owned())
    };
    let mut languages: Vec<(String, u32)> =
        match generation.get("lang_to_id").and_then(Value::as_object) {
            Some(listed) => listed
                .iter()
                .filter_map(|(text, id)| Some((code(text)?, token(id)?)))
                .collect(),
            None if is_multilingual(config, generation, named) => named
                .iter()
                .filter_map(|(text, id)| Some((code(text)?, *id)))
                .collect(),
            None => Vec::new(),
        };
    languages.sort_by_key(|(_, id)| *id);
    languages
}

/// Without `is_multilingual`, a model that forces a language token right after the start is multilingual.
fn is_multilingual(config: &Json, generation: &Json, named: &HashMap<String, u32>) -> bool {
    if let Some(said) = generation.get("is_multilingual").and_then(Value::as_bool) {
        return said;
    }
    let forced = generation
        .get("forced_decoder_ids")
        .or_else(|| config.get("forced_decoder_ids"));
    let Some(first) = forced
        .and_then(Value::as_array)
        .and_then(|forced| forced.first())
    else {
        return false;
    };
    let id = first
        .as_array()
        .and_then(|pair| pair.get(1))
        .and_then(token);
    id.is_none_or(|id| {
        named
            .get("<|notimestamps|>")
            .is_none_or(|no_timestamps| id != *no_timestamps)
    })
}

const FLOAT_SUFFIXES: [&str; 1] = [""];
const INT8_SUFFIXES: [&str; 5] = ["_quantized", "_int8", ".int8", "-int8", "_uint8"];

fn choose_graphs(folder: &Path, precision: Precision, device: Device) -> Result<Graphs> {
    let order: &[(Precision, &[&str])] = match (precision, device) {
        (Precision::Float, _) => &[(Precision::Float, &FLOAT_SUFFIXES)],
        (Precision::Int8, _) => &[(Precision::Int8, &INT8_SUFFIXES)],
        // Dynamic quantisation has no fast CUDA kernels.
        (Precision::Auto, Device::Cuda) => &[
            (Precision::Float, &FLOAT_SUFFIXES),
            (Precision::Int8, &INT8_SUFFIXES),
        ],
        (Precision::Auto, Device::Auto | Device::Cpu) => &[
            (Precision::Int8, &INT8_SUFFIXES),
            (Precision::Float, &FLOAT_SUFFIXES),
        ],
    };
    for (precision, suffixes) in order {
        for suffix in *suffixes {
            if let Some(graphs) = find_graphs(folder, suffix, *precision) {
                return Ok(graphs);
            }
        }
    }
    let suffixes: Vec<&str> = order
        .iter()
        .flat_map(|(_, suffixes)| suffixes.iter().copied())
        .collect();
    Err(missing_graph(folder, &suffixes))
}

fn find_graphs(folder: &Path, suffix: &str, precision: Precision) -> Option<Graphs> {
    let find = |name: &str| find_graph(folder, &["onnx", ""], name, suffix);
    let encoder = find("encoder_model")?;
    let decoder = match find("decoder_model_merged") {
        Some(merged) => DecoderGraphs::Merged(merged),
        None => DecoderGraphs::WithPast {
            prompt: find("decoder_model")?,
            step: find("decoder_with_past_model")?,
        },
    };
    let timestamped = ["decoder_model_merged", "decoder_model"];
    let timestamped_decoder = timestamped
        .iter()
        .find_map(|name| find_graph(folder, &["onnx_timestamped"], name, suffix));
    Some(Graphs {
        precision,
        encoder,
        decoder,
        timestamped_decoder,
    })
}

fn find_graph(folder: &Path, places: &[&str], name: &str, suffix: &str) -> Option<PathBuf> {
    places
        .iter()
        .map(|place| folder.join(place).join(format!("{name}{suffix}.onnx")))
        .find(|path| path.is_file())
}

/// Names the first graph that is missing, for the precision that lacks least.
fn missing_graph(folder: &Path, suffixes: &[&str]) -> EngineError {
    let places = ["onnx", ""];
    let has = |name: &str| {
        suffixes
            .iter()
            .any(|suffix| find_graph(folder, &places, name, suffix).is_some())
    };
    let file = if !has("encoder_model") {
        "onnx/encoder_model"
    } else if has("decoder_model") {
        "onnx/decoder_with_past_model"
    } else {
        "onnx/decoder_model_merged"
    };
    let names: Vec<String> = suffixes
        .iter()
        .map(|suffix| format!("{file}{suffix}.onnx"))
        .collect();
    EngineError::ModelFileMissing {
        folder: folder.to_owned(),
        file: names.join(" or "),
        remedy: "fetch the model again with `dalston models pull`, or import a complete folder"
            .to_owned(),
    }
}
