//! The door to ONNX Runtime: finds and loads `libonnxruntime`, keeps the one environment a process may have, and builds
//! sessions on the device that was asked for. Nothing else in the workspace initialises the library.
//!
//! ```no_run
//! use dalston_engines::session::{Runtime, RuntimeOptions, SessionOptions};
//! # fn main() -> dalston_engines::Result<()> {
//! let runtime = Runtime::load(&RuntimeOptions::default())?;
//! let session = runtime.session("model.onnx".as_ref(), &SessionOptions { threads: 2, ..Default::default() })?;
//! # let _ = session; Ok(()) }
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::ep;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{RunOptions, Session};

use crate::error::{EngineError, Result};
use crate::graph::operators;

/// Where graphs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// CUDA where it works, else the CPU. Never the answer of [`Runtime::device`].
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA; an error where it does not work.
    Cuda,
}

impl Device {
    /// The name used in configuration and in answers: `auto`, `cpu`, `cuda`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

impl std::str::FromStr for Device {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            other => Err(EngineError::InvalidRequest(format!(
                "unknown device {other:?}: use auto, cpu or cuda"
            ))),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How to bring the runtime up.
#[derive(Debug, Clone, Default)]
pub struct RuntimeOptions {
    /// The device asked for.
    pub device: Device,
    /// This library and no other; `None` searches [`library_candidates`].
    pub library: Option<PathBuf>,
}

/// How to build one session.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Threads inside one operator, at least 1.
    pub threads: usize,
    /// Keep this graph on the CPU even when the runtime's device is CUDA (small graphs such as voice activity).
    pub cpu_only: bool,
    /// Write the optimised graph here, for inspection.
    pub optimized_copy: Option<PathBuf>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            threads: 1,
            cpu_only: false,
            optimized_copy: None,
        }
    }
}

/// A loaded ONNX Runtime. Cheap to clone; every clone shares the process's one environment.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    device: Device,
    library: PathBuf,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime")
            .field("device", &self.device)
            .field("library", &self.library)
            .finish_non_exhaustive()
    }
}

/// A hand on the model calls of one piece of work, from any thread: stopping it ends the call that runs under it and
/// every call made under it afterwards. Clones share it.
#[derive(Clone)]
pub struct RunGuard {
    options: Arc<RunOptions>,
    stopped: Arc<AtomicBool>,
}

impl RunGuard {
    /// A guard that is not stopped.
    ///
    /// # Errors
    /// [`EngineError::Graph`] when ONNX Runtime is not loaded or cannot allocate it.
    pub fn new() -> Result<Self> {
        // Without a library `ort` panics instead of answering.
        if LOADED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
        {
            return Err(EngineError::graph(
                "preparing a model call",
                "ONNX Runtime is not loaded",
            ));
        }
        let options = RunOptions::new()
            .map_err(|error| EngineError::graph("preparing a model call", error))?;
        Ok(Self {
            options: Arc::new(options),
            stopped: Arc::default(),
        })
    }

    /// Stops the running call between two of its operators, and all later ones.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Err(error) = self.options.terminate() {
            tracing::warn!(%error, "a model call could not be told to stop; it ends with its last operator");
        }
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// The run options every session call of this work must pass to `Session::run_with_options`.
    pub fn options(&self) -> &RunOptions {
        &self.options
    }

    /// The error of a failed call: [`EngineError::Cancelled`] when it was stopped, else the graph's.
    pub fn error(&self, doing: &str, error: impl std::fmt::Display) -> EngineError {
        if self.is_stopped() {
            EngineError::Cancelled
        } else {
            EngineError::graph(doing, error)
        }
    }

    /// Refuses to go on once stopped.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.is_stopped() {
            Err(EngineError::Cancelled)
        } else {
            Ok(())
        }
    }
}

impl std::fmt::Debug for RunGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunGuard")
            .field("stopped", &self.is_stopped())
            .finish_non_exhaustive()
    }
}

// ONNX Runtime allows one environment per process and `ort` one library per process, so the first successful load wins.
static LOADED: Mutex<Option<(Environment, PathBuf)>> = Mutex::new(None);

impl Runtime {
    /// Loads the library (once per process) and settles the device.
    ///
    /// # Errors
    /// [`EngineError::RuntimeMissing`] and [`EngineError::RuntimeUnusable`] when there is no fitting library,
    /// [`EngineError::CudaUnavailable`] when [`Device::Cuda`] was asked for and does not work.
    pub fn load(options: &RuntimeOptions) -> Result<Self> {
        let (environment, library) = load_environment(options.library.as_deref())?;
        let mut runtime = Self {
            environment,
            device: Device::Cpu,
            library,
        };
        match options.device {
            Device::Cpu => {}
            Device::Cuda => {
                runtime
                    .probe_cuda()
                    .map_err(|message| EngineError::CudaUnavailable {
                        // It becomes part of a sentence.
                        message: message.trim_end_matches('.').to_owned(),
                    })?;
                runtime.device = Device::Cuda;
            }
            Device::Auto => match runtime.probe_cuda() {
                Ok(()) => runtime.device = Device::Cuda,
                Err(message) => {
                    tracing::debug!(%message, "CUDA is not available, running on the CPU");
                }
            },
        }
        tracing::info!(
            device = %runtime.device,
            library = %runtime.library.display(),
            "ONNX Runtime is loaded"
        );
        Ok(runtime)
    }

    /// The device that really runs: [`Device::Cpu`] or [`Device::Cuda`].
    pub fn device(&self) -> Device {
        self.device
    }

    /// The library in use.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Builds a session from a graph file, external weights beside it included.
    ///
    /// # Errors
    /// [`EngineError::Graph`] with the file's name.
    pub fn session(&self, path: &Path, options: &SessionOptions) -> Result<Session> {
        self.builder(options)
            .and_then(|mut builder| {
                builder
                    .commit_from_file(path)
                    .map_err(|error| error.to_string())
            })
            .map_err(|message| EngineError::graph(format!("loading {}", path.display()), message))
    }

    /// Builds a session from a graph in memory; `name` is used in errors only.
    ///
    /// # Errors
    /// [`EngineError::Graph`] with the name.
    pub fn session_from_memory(
        &self,
        name: &str,
        graph: &[u8],
        options: &SessionOptions,
    ) -> Result<Session> {
        self.builder(options)
            .and_then(|mut builder| {
                builder
                    .commit_from_memory(graph)
                    .map_err(|error| error.to_string())
            })
            .map_err(|message| EngineError::graph(format!("loading {name}"), message))
    }

    fn builder(&self, options: &SessionOptions) -> Result<SessionBuilder, String> {
        let text = |error: ort::Error<SessionBuilder>| error.to_string();
        let mut builder = Session::builder(&self.environment)
            .map_err(|error| error.to_string())?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(text)?
            .with_intra_threads(options.threads.max(1))
            .map_err(text)?
            // Several sessions share few cores: a thread that waits must not burn one.
            .with_intra_op_spinning(false)
            .map_err(text)?
            // Rewritten graphs call operators of our own; others do not notice them.
            .with_operators(operators::domain().map_err(|error| error.to_string())?)
            .map_err(text)?;
        if let Some(path) = &options.optimized_copy {
            builder = builder.with_optimized_model_path(path).map_err(text)?;
        }
        if self.device == Device::Cuda && !options.cpu_only {
            builder = builder
                .with_execution_providers([ep::CUDA::default().build().error_on_failure()])
                .map_err(text)?;
        }
        Ok(builder)
    }

    /// Registering the provider proves that its libraries load; only a session proves that there is a GPU.
    fn probe_cuda(&self) -> Result<(), String> {
        let on_cuda = Self {
            device: Device::Cuda,
            ..self.clone()
        };
        let mut builder = on_cuda.builder(&SessionOptions::default())?;
        builder
            .commit_from_memory(IDENTITY_GRAPH)
            .map(drop)
            .map_err(|error| error.to_string())
    }
}

fn load_environment(library: Option<&Path>) -> Result<(Environment, PathBuf)> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((environment, path)) = loaded.as_ref() {
        return Ok((environment.clone(), path.clone()));
    }
    let path = match library {
        Some(path) => path.to_owned(),
        None => find_library()?,
    };
    let unusable = |message: String| EngineError::RuntimeUnusable {
        path: path.clone(),
        message,
    };
    let environment = ort::init_from(&path)
        .map_err(|error| unusable(error.to_string()))?
        .with_name("dalston")
        .with_telemetry(false)
        .build()
        .map_err(|error| unusable(error.to_string()))?;
    announce_operators(&environment).map_err(|error| unusable(error.to_string()))?;
    *loaded = Some((environment.clone(), path.clone()));
    Ok((environment, path))
}

/// Makes the first session of the process. It is then that ONNX Runtime notes our operators' domain, and two sessions
/// that are both the first would note it twice, which fails one of them.
fn announce_operators(environment: &Environment) -> ort::Result<()> {
    Session::builder(environment)?
        .with_operators(operators::domain()?)?
        .commit_from_memory(IDENTITY_GRAPH)
        .map(drop)
}

fn find_library() -> Result<PathBuf> {
    let candidates = library_candidates();
    let found = candidates.iter().find_map(|place| library_in(place));
    found.ok_or_else(|| EngineError::RuntimeMissing {
        searched: candidates
            .iter()
            .map(|place| place.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// Where the library is looked for, in order: `ORT_DYLIB_PATH` (a file), `$DALSTON_RUNTIME_DIR`, `./.runtime` (also in
/// the folders above, so that a test finds the repository's), beside the executable, `.runtime` of the repository that it
/// was built in, `/usr/lib`, `/usr/local/lib`.
pub fn library_candidates() -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    let from_env = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    candidates.extend(from_env("ORT_DYLIB_PATH"));
    candidates.extend(from_env("DALSTON_RUNTIME_DIR"));
    if let Ok(here) = std::env::current_dir() {
        candidates.extend(
            here.ancestors()
                .take(4)
                .map(|folder| folder.join(".runtime")),
        );
    }
    if let Ok(executable) = std::env::current_exe() {
        candidates.extend(executable.parent().map(Path::to_owned));
        // Of a program that was built and not installed: target/release/dalston.
        let repository = executable.ancestors().nth(3);
        candidates.extend(repository.map(|folder| folder.join(".runtime")));
    }
    candidates.push("/usr/lib".into());
    candidates.push("/usr/local/lib".into());
    candidates
}

/// The library itself, or the newest `libonnxruntime.so*` in a folder.
fn library_in(place: &Path) -> Option<PathBuf> {
    if place.is_file() {
        return Some(place.to_owned());
    }
    let plain = place.join("libonnxruntime.so");
    if plain.is_file() {
        return Some(plain);
    }
    let mut versions: Vec<PathBuf> = std::fs::read_dir(place)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so."))
        })
        .collect();
    versions.sort();
    versions.pop()
}

/// `y = Identity(x)` over one float, in ONNX's protobuf: IR version 8, operator set 13.
#[rustfmt::skip]
const IDENTITY_GRAPH: &[u8] = &[
    0x08, 0x08, // ir_version
    0x3a, 0x37, // graph
    0x0a, 0x10, 0x0a, 0x01, b'x', 0x12, 0x01, b'y', 0x22, 0x08, b'I', b'd', b'e', b'n', b't', b'i', b't', b'y', // node
    0x12, 0x01, b'g', // name
    0x5a, 0x0f, 0x0a, 0x01, b'x', 0x12, 0x0a, 0x0a, 0x08, 0x08, 0x01, 0x12, 0x04, 0x0a, 0x02, 0x08, 0x01, // input
    0x62, 0x0f, 0x0a, 0x01, b'y', 0x12, 0x0a, 0x0a, 0x08, 0x08, 0x01, 0x12, 0x04, 0x0a, 0x02, 0x08, 0x01, // output
    0x42, 0x02, 0x10, 0x0d, // opset_import
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_folder_without_the_library_holds_none() {
        let folder = std::env::temp_dir().join("dalston-no-runtime-here");
        assert_eq!(library_in(&folder), None);
    }

    #[test]
    fn device_names_round_trip() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda] {
            assert_eq!(device.as_str().parse::<Device>().unwrap(), device);
        }
        assert!("gpu".parse::<Device>().is_err());
    }

    #[test]
    fn the_probe_graph_is_a_valid_graph() {
        let runtime = Runtime::load(&RuntimeOptions {
            device: Device::Cpu,
            library: None,
        })
        .unwrap();
        let session = runtime
            .session_from_memory("identity", IDENTITY_GRAPH, &SessionOptions::default())
            .unwrap();
        assert_eq!(session.inputs().len(), 1);
    }

    #[test]
    fn auto_reports_the_device_that_runs_and_a_missing_cuda_is_an_error() {
        let runtime = Runtime::load(&RuntimeOptions {
            device: Device::Auto,
            library: None,
        })
        .unwrap();
        let asked = Runtime::load(&RuntimeOptions {
            device: Device::Cuda,
            library: None,
        });
        match runtime.device() {
            Device::Cuda => assert!(asked.is_ok()),
            Device::Cpu => {
                let message = asked.unwrap_err().to_string();
                assert!(message.contains("DALSTON_DEVICE=cpu"), "{message}");
                assert!(!message.contains(".."), "{message}");
            }
            Device::Auto => panic!("auto is not a device"),
        }
    }
}
