//! What can go wrong between a model folder and a transcript. One enum for the crate; every variant is something a
//! caller can act on, and its text says what to change. Cloneable, because one failed call answers every request in
//! its batch.

use std::path::PathBuf;

/// The result of every fallible function in this crate.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// Why an engine could not be loaded or could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// `libonnxruntime` is in none of the places it is looked for.
    #[error(
        "ONNX Runtime is not installed: no libonnxruntime.so in {searched}. \
         Run `make build`, or set ORT_DYLIB_PATH to the library"
    )]
    RuntimeMissing {
        /// The places searched, in order, separated by commas.
        searched: String,
    },
    /// A library was found and cannot be used: the wrong version, or not a library at all.
    #[error(
        "ONNX Runtime at {path} cannot be used: {message}. \
         Run `make build` to fetch the version this program needs, or correct ORT_DYLIB_PATH"
    )]
    RuntimeUnusable {
        /// The library that was tried.
        path: PathBuf,
        /// What the loader said.
        message: String,
    },
    /// CUDA was asked for by name and cannot be had.
    #[error(
        "CUDA was asked for and is not available: {message}. Install the onnxruntime-gpu library with CUDA 13 and \
         cuDNN 9 and point ORT_DYLIB_PATH at it, or set DALSTON_DEVICE=cpu (or auto)"
    )]
    CudaUnavailable {
        /// What the provider said, down to the shared object it misses.
        message: String,
    },
    /// A model folder lacks a file.
    #[error("the model folder {folder} has no {file}: {remedy}")]
    ModelFileMissing {
        /// The folder that was read.
        folder: PathBuf,
        /// The file, or the files of which one is needed.
        file: String,
        /// What to do about it.
        remedy: String,
    },
    /// A model file is there and makes no sense.
    #[error("{path} is not usable: {message}")]
    ModelInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// ONNX Runtime refused to build or run a graph.
    #[error("{doing}: {message}")]
    Graph {
        /// What was being done, with the graph's name.
        doing: String,
        /// What ONNX Runtime said.
        message: String,
    },
    /// The request asks for something this model cannot do. Safe to show to a client.
    #[error("{0}")]
    InvalidRequest(String),
    /// The audio could not be read.
    #[error("the audio could not be read: {0}")]
    Audio(String),
    /// The caller raised the cancel flag.
    #[error("cancelled")]
    Cancelled,
    /// The call ran longer than the time its audio allows.
    #[error("no result within {limit_s:.0} s, the time limit for {audio_s:.1} s of audio")]
    TimeLimit {
        /// The limit, seconds.
        limit_s: f64,
        /// Length of the audio, seconds.
        audio_s: f64,
    },
    /// The thread that owns the model has ended.
    #[error("the model was unloaded before it answered; submit the request again")]
    Unloaded,
}

impl EngineError {
    /// Wraps an ONNX Runtime error with what was being done.
    pub fn graph(doing: impl Into<String>, error: impl std::fmt::Display) -> Self {
        Self::Graph {
            doing: doing.into(),
            message: error.to_string(),
        }
    }
}
