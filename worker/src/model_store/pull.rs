//! Fetches a model from the hub: which repository serves the name, which of its files make the model, then file by file,
//! and into the store when all are here and the engine accepts them.

use dalston_schema::catalogue::{self, Layout, Meaning, Precision};

use super::download::{self, Job};
use super::error::{ModelStoreError, Result};
use super::hub::{Hub, HubSettings, RemoteFile};
use super::manifest::{InstalledModel, Source};
use super::model_id::ModelId;
use super::{ModelStore, Transfer, blocking, describe, layout, staging};

/// See [`ModelStore::pull`].
pub(super) async fn pull(
    store: &ModelStore,
    name: &str,
    settings: &HubSettings,
    transfer: &Transfer,
) -> Result<InstalledModel> {
    let mut candidates = candidates(name)?;
    for id in &candidates {
        if let Ok(model) = store.get(id.as_str()).await
            && (id.is_bundled() || (!settings.force && has_weights(&model, settings.precision)))
        {
            return Ok(model);
        }
    }
    let id = candidates.swap_remove(0);
    if id.is_bundled() {
        store.unpack_bundled().await?;
        return store.get(id.as_str()).await;
    }
    if settings.offline {
        return Err(ModelStoreError::Offline {
            model: id.to_string(),
        });
    }
    let lock = store.lock(&id, &transfer.cancel).await?;
    // Whoever held the lock may have fetched it.
    if let Ok(model) = store.get(id.as_str()).await
        && !settings.force
        && has_weights(&model, settings.precision)
    {
        return Ok(model);
    }
    let result = fetch(store, &id, settings, transfer).await;
    if matches!(result, Err(ModelStoreError::DiskFull { .. })) {
        // Half a model on a full disk helps nobody.
        staging::remove_folder(&store.downloads(&id))?;
    }
    drop(lock);
    result
}

/// The models a name may stand for, best first; never empty.
fn candidates(name: &str) -> Result<Vec<ModelId>> {
    let name = name.trim();
    let not_pullable = |why: String| {
        Err(ModelStoreError::NotPullable {
            name: name.to_owned(),
            why,
        })
    };
    let entries = match catalogue::catalogue().meaning(name) {
        Meaning::Model(entry) => vec![entry],
        Meaning::Alias(entries) => entries,
        Meaning::Auto | Meaning::Engines(_) => {
            return not_pullable(
                "it stands for the best model present, not for one model; give a model's id"
                    .to_owned(),
            );
        }
        Meaning::Unavailable { reason, instead } => {
            return not_pullable(match instead {
                Some(entry) => format!("{reason}. Pull {} instead", entry.id),
                None => reason.to_owned(),
            });
        }
        Meaning::Unknown => {
            let id = ModelId::parse(name)?;
            if !id.is_repository() {
                return Err(ModelStoreError::UnknownModel(id.to_string()));
            }
            return Ok(vec![id]);
        }
    };
    if let Some(entry) = entries
        .iter()
        .find(|entry| !catalogue::catalogue().serves(&entry.engine))
    {
        return Err(ModelStoreError::NotServed {
            what: name.to_owned(),
            kind: entry.engine.clone(),
            served: catalogue::catalogue().served_engines().join(", "),
        });
    }
    entries
        .iter()
        .map(|entry| ModelId::parse(&entry.id))
        .collect()
}

/// Whether a model here has the wished weights.
fn has_weights(model: &InstalledModel, precision: Option<Precision>) -> bool {
    let Some(precision) = precision else {
        return true;
    };
    let has = |path: &String| model.manifest.files.iter().any(|file| file.path == *path);
    catalogue::catalogue()
        .layout(&model.manifest.layout)
        .is_some_and(|layout| {
            let mut parts = layout.parts(precision).iter();
            parts.all(|part| part.iter().any(has))
        })
}

/// Downloads and installs; the caller holds the lock.
async fn fetch(
    store: &ModelStore,
    id: &ModelId,
    settings: &HubSettings,
    transfer: &Transfer,
) -> Result<InstalledModel> {
    let hub = Hub::new(settings)?;
    let repository = id.as_str();
    let snapshot = transfer
        .cancel
        .run_until_cancelled(hub.snapshot(repository, &settings.revision))
        .await
        .ok_or(ModelStoreError::Cancelled)??;
    let layout = match catalogue::entry(id.as_str()) {
        Some(entry) => catalogue::catalogue().layout(&entry.layout),
        None => {
            let has = |path: &str| snapshot.files.iter().any(|file| file.path == path);
            let found = catalogue::catalogue().layout_of(has, snapshot.model_type.as_deref());
            found.map(|(_, layout)| layout)
        }
    };
    let Some(layout) = layout else {
        return Err(ModelStoreError::NotPullable {
            name: id.to_string(),
            why: "its repository has the files of no model that Dalston runs, so it is no complete ONNX export \
                  of one"
                .to_owned(),
        });
    };
    let wanted = select(layout, &snapshot.files, settings.precision).map_err(|why| {
        ModelStoreError::NotPullable {
            name: id.to_string(),
            why,
        }
    })?;
    let folder = store.downloads(id);
    std::fs::create_dir_all(&folder).map_err(ModelStoreError::io("creating", &folder))?;
    let total = wanted.iter().filter_map(|file| file.size).sum();
    let mut job = Job {
        hub: &hub,
        repository,
        folder: &folder,
        transfer,
        done_before: 0,
        total,
    };
    let mut files = Vec::new();
    for file in &wanted {
        let url = hub.file_url(repository, &snapshot.commit, &file.path);
        let done = download::fetch(&job, file, &url).await?;
        job.done_before += done.size;
        files.push(done);
    }
    let parts: Vec<_> = wanted
        .iter()
        .map(|file| (download::part_path(&folder, file), file.path.clone()))
        .collect();
    let source = Source::Hub {
        repository: repository.to_owned(),
        revision: snapshot.commit,
    };
    let (store, id) = (store.clone(), id.clone());
    blocking(move || {
        let staging = store.staging(&id)?;
        for (part, path) in &parts {
            staging.adopt(part, path)?;
        }
        let recognised = layout::recognise(staging.folder())?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = describe(&id, recognised, source, files);
        let model = store.install(staging, manifest, &id)?;
        staging::remove_folder(&store.downloads(&id))?;
        tracing::info!(model = %id, "{id} is downloaded");
        Ok(model)
    })
    .await
}

/// The files to fetch of a repository: all metadata, what there is of the optional files, the parts with the wished
/// weights and their external data. `Err` says what is missing.
fn select(
    layout: &Layout,
    files: &[RemoteFile],
    precision: Option<Precision>,
) -> Result<Vec<RemoteFile>, String> {
    let find = |path: &str| files.iter().find(|file| file.path == path);
    let parts = |precision: Precision| -> Result<Vec<&RemoteFile>, String> {
        let one_of = |part: &Vec<String>| {
            part.iter()
                .find_map(|path| find(path))
                .ok_or_else(|| part.join(" or "))
        };
        layout.parts(precision).iter().map(one_of).collect()
    };
    let graphs = match precision {
        Some(precision) => parts(precision),
        None => {
            parts(Precision::Int8).or_else(|missing| parts(Precision::Float).map_err(|_| missing))
        }
    };
    let missing =
        |what: &str| format!("its repository has no {what}, so it is no complete ONNX export");
    let graphs = graphs.map_err(|what| missing(&what))?;
    let mut selected = Vec::new();
    for path in &layout.metadata {
        selected.push(find(path).ok_or_else(|| missing(path))?.clone());
    }
    selected.extend(
        layout
            .optional
            .iter()
            .filter_map(|path| find(path))
            .cloned(),
    );
    for graph in graphs {
        // `x.onnx` itself, and its external weights: `x.onnx_data`, `x.onnx_data_1`, `x.onnx.data`.
        selected.extend(
            files
                .iter()
                .filter(|file| file.path.starts_with(&graph.path))
                .cloned(),
        );
    }
    Ok(selected)
}
