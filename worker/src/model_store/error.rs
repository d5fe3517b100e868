//! What can go wrong with the models on this machine. Every text says what to change; all of it may be shown to the
//! person who runs the command.

use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible function of the model store.
pub type Result<T, E = ModelStoreError> = std::result::Result<T, E>;

/// Why a model could not be listed, fetched, imported or removed.
#[derive(Debug, thiserror::Error)]
pub enum ModelStoreError {
    /// The text cannot be a model id.
    #[error("{id:?} is no model id: {why}")]
    InvalidId {
        /// What was given.
        id: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// Neither the catalogue nor the hub's naming knows it.
    #[error(
        "there is no model {0}; `dalston models list --catalogue` names the published ones, and any hub repository with an \
         ONNX export that Dalston runs can be given as ORGANISATION/NAME"
    )]
    UnknownModel(String),
    /// A known name that is no model that can be fetched.
    #[error("{name} cannot be pulled: {why}")]
    NotPullable {
        /// What was given.
        name: String,
        /// Why not, with what to do.
        why: String,
    },
    /// No such model on this machine.
    #[error(
        "{0} is not on this machine; `dalston models list` names those that are, `dalston models pull` fetches one"
    )]
    NotInstalled(String),
    /// A model of this id is there already.
    #[error(
        "{0} is on this machine already; remove it first with `dalston models rm`, or give another id"
    )]
    AlreadyInstalled(String),
    /// The model comes with the program.
    #[error(
        "{0} comes with Dalston and would be unpacked again at the next start; it needs no removing"
    )]
    Bundled(String),
    /// A model of a kind that is recognised and that this version does not run.
    #[error("{what} is a {kind} model, which this version does not run yet; it runs {served}")]
    NotServed {
        /// The folder or id.
        what: String,
        /// Kind of model.
        kind: String,
        /// What is run.
        served: String,
    },
    /// Files that make no known model.
    #[error(
        "{folder} holds no model in a layout Dalston knows. A Whisper folder has config.json, tokenizer.json, \
         onnx/encoder_model*.onnx and onnx/decoder_model_merged*.onnx; a Parakeet folder vocab.txt and \
         encoder-model*.onnx with decoder_joint-model*.onnx, or model*.onnx; a wav2vec 2.0 folder config.json, \
         vocab.json and onnx/model*.onnx. Export one with `optimum-cli export onnx`, or pull a published one"
    )]
    Unrecognised {
        /// What was looked at.
        folder: String,
    },
    /// The files look right and do not work.
    #[error("the model in {folder} cannot be used: {message}")]
    Unusable {
        /// What was looked at.
        folder: String,
        /// What the engine said.
        message: String,
    },
    /// A link that leads out of the folder.
    #[error(
        "{0} is a symbolic link that leads out of the folder; copy the folder with its contents first (`cp -rL`)"
    )]
    LinkOutside(PathBuf),
    /// A folder in the store without a readable manifest.
    #[error(
        "{path} cannot be read: {message}. Remove the model's folder and pull or import it again"
    )]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The disk is full.
    #[error(
        "no space left on the disk of {folder}: free some, or point DALSTON_MODEL_DIR at a larger disk"
    )]
    DiskFull {
        /// Where it was written.
        folder: PathBuf,
    },
    /// Any other failure of the file system.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Work was stopped from outside.
    #[error("cancelled")]
    Cancelled,
    /// `DALSTON_OFFLINE` is set.
    #[error(
        "{model} is not on this machine and DALSTON_OFFLINE is set: unset it to download, or fetch the model's folder \
         elsewhere and run `dalston models import FOLDER`"
    )]
    Offline {
        /// What was to be fetched.
        model: String,
    },
    /// The hub could not be reached.
    #[error(
        "{host} cannot be reached ({message}). Check the network, set HF_ENDPOINT to a mirror that can be reached, or \
         fetch the model's folder elsewhere and run `dalston models import FOLDER`. What was downloaded so far is kept"
    )]
    Unreachable {
        /// Host of the endpoint, or where it redirected to.
        host: String,
        /// The innermost cause.
        message: String,
    },
    /// The hub wants to know who is asking.
    #[error("{host} refuses access to {repository} ({message}): {remedy}")]
    Refused {
        /// Host of the endpoint.
        host: String,
        /// The repository.
        repository: String,
        /// What the hub said.
        message: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The hub has no such repository, revision or file.
    #[error("{host} has no {what}; check the id's spelling and case")]
    NotFound {
        /// Host of the endpoint.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// The hub answered something else than it should.
    #[error(
        "{host} answered {message} for {what}; try again later, or set HF_ENDPOINT to a mirror"
    )]
    Hub {
        /// Host of the endpoint.
        host: String,
        /// What was asked for.
        what: String,
        /// Status or what was wrong with the body.
        message: String,
    },
    /// The object store could not give or take a file of a model.
    #[error("the object store has trouble with {key}: {source}")]
    ObjectStore {
        /// Key of the object.
        key: String,
        /// What it said.
        source: dalston_schema::storage::StorageError,
    },
    /// A file arrived changed.
    #[error(
        "{file} arrived damaged ({message}); it was deleted. Run the pull again; if it happens again, the mirror or a \
         proxy on the way changes files"
    )]
    Checksum {
        /// The file, as named in the repository.
        file: String,
        /// Expected and found.
        message: String,
    },
}

impl ModelStoreError {
    /// Wraps a file-system error with what was done to which file; a full disk becomes its own variant.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull {
                folder: path.parent().map(Path::to_owned).unwrap_or(path),
            },
            _ => Self::Io {
                doing,
                path,
                source,
            },
        }
    }
}
