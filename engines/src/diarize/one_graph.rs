//! Models of one graph, as both that tell speakers apart are: which file it is, what it says of itself, its session.

use std::path::{Path, PathBuf};

use ort::session::Session;

use crate::error::{EngineError, Result};
use crate::graph::interface::Interface;
use crate::model_folder::{Precision, choose_graph, file_bytes};
use crate::registry::{EngineSpec, LoadOptions, ModelDescription};
use crate::session::{Device, Runtime, SessionOptions};

/// The graph of a model folder.
pub(super) struct OneGraph {
    /// Its file.
    pub path: PathBuf,
    /// Inputs, outputs and metadata.
    pub interface: Interface,
}

impl OneGraph {
    /// Chooses the graph and reads what it says.
    ///
    /// # Errors
    /// [`EngineError::ModelFileMissing`], [`EngineError::ModelInvalid`].
    pub fn open(folder: &Path, precision: Precision) -> Result<Self> {
        let (_, path) = graph_file(folder, precision)?;
        let interface = Interface::read(&path).map_err(|error| EngineError::ModelInvalid {
            path: path.clone(),
            message: error.to_string(),
        })?;
        Ok(Self { path, interface })
    }

    /// The error that it is not a model of the kind.
    pub fn invalid(&self, message: String) -> EngineError {
        EngineError::ModelInvalid {
            path: self.path.clone(),
            message,
        }
    }

    /// Loads it.
    ///
    /// # Errors
    /// [`EngineError::Graph`].
    pub fn session(&self, runtime: &Runtime, options: &LoadOptions) -> Result<Session> {
        runtime.session(&self.path, &session_options(options))
    }

    /// Bytes of its weights.
    pub fn weight_bytes(&self) -> u64 {
        file_bytes(&self.path)
    }
}

/// How sessions of such models are opened.
pub(super) fn session_options(options: &LoadOptions) -> SessionOptions {
    SessionOptions {
        threads: options.threads,
        ..SessionOptions::default()
    }
}

/// What a model of the stage is, from its files.
pub(super) fn description(
    spec: &EngineSpec,
    folder: &Path,
    precision: Precision,
    component: bool,
) -> Result<ModelDescription> {
    let (precision, path) = graph_file(folder, precision)?;
    Ok(ModelDescription {
        engine: spec.id,
        stage: spec.stage,
        languages: Vec::new(),
        translates: false,
        native_words: false,
        alignment_method: None,
        vocabulary: "none",
        component,
        streaming: false,
        precision,
        weight_bytes: file_bytes(&path),
    })
}

/// The graph to run: 8-bit weights gain little in so small a model, so they run only when asked for or alone.
fn graph_file(folder: &Path, precision: Precision) -> Result<(Precision, PathBuf)> {
    // The device that prefers float.
    choose_graph(folder, "model", precision, Device::Cuda)
}
