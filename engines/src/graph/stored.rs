//! Rewritten graphs on disk: written once into a folder of their own, found there by later loads and other processes,
//! and written anew when their sources or what we write have changed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::GraphError;
use super::emit::WeightFile;

/// Version of what is written. A change of layout or of an operator's meaning raises it, and folders are written anew.
const VERSION: u32 = 4;
const STAMP: &str = "stamp.json";
const WEIGHTS: &str = "weights.bin";

/// A folder of rewritten graphs.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The folder.
    pub folder: PathBuf,
    /// Layers of the network, as the writer counted them.
    pub n_layers: usize,
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Whether this call wrote them.
    pub is_new: bool,
}

/// Says for which files, and by which version, a folder was written.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    version: u32,
    kernels: String,
    sources: Vec<SourceFile>,
    n_layers: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SourceFile {
    name: String,
    bytes: u64,
    modified_ns: u128,
}

impl Stored {
    /// The folder `name` below `out_dir`, written by `write` unless it is there for the same `sources`. `write` puts
    /// graphs into a folder and weights into a file beside them, and answers the number of layers. Safe when several
    /// processes do it at once: each writes a folder of its own, and renames it into place.
    ///
    /// # Errors
    /// [`GraphError`]; the published graphs can be used all the same.
    pub fn find_or_write(
        out_dir: &Path,
        name: &str,
        sources: &[&Path],
        write: impl FnOnce(&Path, &mut WeightFile) -> Result<usize, GraphError>,
    ) -> Result<Self, GraphError> {
        let sources: Result<Vec<_>, _> = sources.iter().map(|path| source_file(path)).collect();
        let mut stamp = Stamp {
            version: VERSION,
            kernels: name.to_owned(),
            sources: sources?,
            n_layers: 0,
        };
        let folder = out_dir.join(name);
        if let Some(found) = find(&folder, &stamp) {
            return Ok(found);
        }
        let temporary = Temporary::create(out_dir)?;
        let mut weights = WeightFile::create(&temporary.0, WEIGHTS)?;
        stamp.n_layers = write(&temporary.0, &mut weights)?;
        weights.finish()?;
        let text = serde_json::to_vec_pretty(&stamp)
            .map_err(|error| GraphError::invalid(error.to_string()))?;
        let path = temporary.0.join(STAMP);
        std::fs::write(&path, text).map_err(|error| GraphError::io(&path, error))?;

        // A folder of another version or of other sources is in the way; one of ours, made meanwhile, is welcome.
        if std::fs::rename(&temporary.0, &folder).is_err() {
            if let Some(found) = find(&folder, &stamp) {
                return Ok(found);
            }
            let old = Temporary::path(out_dir);
            std::fs::rename(&folder, &old).map_err(|error| GraphError::io(&folder, error))?;
            let _old = Temporary(old);
            std::fs::rename(&temporary.0, &folder)
                .map_err(|error| GraphError::io(&folder, error))?;
        }
        let written = find(&folder, &stamp).ok_or_else(|| {
            GraphError::invalid(format!(
                "{} was changed while it was written",
                folder.display()
            ))
        })?;
        Ok(Self {
            is_new: true,
            ..written
        })
    }

    /// Removes the graphs, when they turn out not to compute what the published ones do.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn remove(&self) -> Result<(), GraphError> {
        std::fs::remove_dir_all(&self.folder).map_err(|error| GraphError::io(&self.folder, error))
    }
}

/// Calls `write` with `optimized/` in a model's folder, or, when that is read-only, with a place beside the system's
/// temporary files, the same for every process.
///
/// # Errors
/// Those of `write`.
pub fn beside_model<T>(
    model: &Path,
    write: impl Fn(&Path) -> Result<T, GraphError>,
) -> Result<T, GraphError> {
    match write(&model.join("optimized")) {
        Err(GraphError::Io { error, .. }) if is_read_only(&error) => write(&place_elsewhere(model)),
        other => other,
    }
}

fn is_read_only(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem
    )
}

fn place_elsewhere(model: &Path) -> PathBuf {
    // FNV-1a: the name only has to differ between the folders of one machine.
    let hash = model
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    std::env::temp_dir().join(format!("dalston-graphs-{hash:016x}"))
}

fn find(folder: &Path, wanted: &Stamp) -> Option<Stored> {
    let stamp: Stamp = serde_json::from_slice(&std::fs::read(folder.join(STAMP)).ok()?).ok()?;
    let same = stamp.version == wanted.version
        && stamp.kernels == wanted.kernels
        && stamp.sources == wanted.sources;
    let weight_bytes = std::fs::metadata(folder.join(WEIGHTS)).ok()?.len();
    same.then(|| Stored {
        folder: folder.to_owned(),
        n_layers: stamp.n_layers,
        weight_bytes,
        is_new: false,
    })
}

fn source_file(path: &Path) -> Result<SourceFile, GraphError> {
    let metadata = std::fs::metadata(path).map_err(|error| GraphError::io(path, error))?;
    let modified = metadata
        .modified()
        .map_err(|error| GraphError::io(path, error))?;
    Ok(SourceFile {
        name: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        bytes: metadata.len(),
        modified_ns: modified
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos(),
    })
}

/// A folder that goes away when its owner does, unless it was renamed.
struct Temporary(PathBuf);

impl Temporary {
    fn path(parent: &Path) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        parent.join(format!(".writing-{}-{count}", std::process::id()))
    }

    fn create(parent: &Path) -> Result<Self, GraphError> {
        let path = Self::path(parent);
        std::fs::create_dir_all(&path).map_err(|error| GraphError::io(&path, error))?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.0.exists()
            && let Err(error) = std::fs::remove_dir_all(&self.0)
        {
            tracing::warn!(path = %self.0.display(), %error, "a temporary folder could not be removed");
        }
    }
}
