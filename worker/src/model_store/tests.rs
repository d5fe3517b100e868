#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use dalston_schema::catalogue::Precision;

use super::*;

mod bundled_models_run;
mod hub_server;
mod pull;

fn repository_models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engines/models")
}

fn store() -> (tempfile::TempDir, ModelStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = ModelStore::open(folder.path().join("models")).unwrap();
    (folder, store)
}

async fn ids(store: &ModelStore) -> Vec<String> {
    let models = store.list().await.unwrap();
    models.iter().map(|model| model.id().to_owned()).collect()
}

fn bundled_ids() -> Vec<&'static str> {
    let mut ids: Vec<_> = BUNDLED.iter().map(|bundled| bundled.id).collect();
    ids.sort_unstable();
    ids
}

/// Files of the store but for locks.
fn files_in(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_none_or(|extension| extension != "lock") {
                found.insert(path);
            }
        }
    }
    found
}

/// A copy of the nano folder that a test may change.
fn copy_of_nano(to: &Path) -> PathBuf {
    let nano = repository_models().join("whisper-nano");
    let copy = to.join("copy");
    for place in ["", "onnx", "onnx_timestamped"] {
        std::fs::create_dir_all(copy.join(place)).unwrap();
        for entry in std::fs::read_dir(nano.join(place)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, copy.join(place).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    copy
}

#[tokio::test]
async fn bundled_models_are_unpacked_once_and_repaired_when_they_differ() {
    let (_folder, store) = store();
    let first = store.unpack_bundled().await.unwrap();
    assert_eq!(ids(&store).await, bundled_ids());
    assert_eq!(store.unpack_bundled().await.unwrap(), first);
    let nano = &first[0].manifest;
    assert_eq!(nano.languages.as_deref(), Some(&["en".to_owned()][..]));
    assert!(nano.words);

    let config = store.root().join("whisper-nano/config.json");
    std::fs::write(&config, "{}").unwrap();
    std::fs::remove_file(store.root().join("silero-vad/silero_vad.onnx")).unwrap();
    let again = store.unpack_bundled().await.unwrap();
    assert_eq!(again[0].manifest.files, first[0].manifest.files);
    assert_ne!(std::fs::read(&config).unwrap(), b"{}");
    assert!(store.root().join("silero-vad/silero_vad.onnx").is_file());
}

#[tokio::test]
async fn two_processes_unpack_into_one_folder() {
    let (_folder, store) = store();
    let stores: Vec<_> = (0..4)
        .map(|_| ModelStore::open(store.root()).unwrap())
        .collect();
    let all = futures_util::future::join_all(stores.iter().map(ModelStore::unpack_bundled)).await;
    for models in all {
        assert_eq!(models.unwrap().len(), BUNDLED.len());
    }
    assert_eq!(ids(&store).await, bundled_ids());
}

#[test]
fn the_embedded_files_are_complete_models_of_the_catalogue() {
    let mut bytes = 0;
    for entry in catalogue::entries().iter().filter(|entry| entry.bundled) {
        let bundled = BUNDLED
            .iter()
            .find(|bundled| bundled.id == entry.id)
            .unwrap();
        let layout = catalogue::catalogue().layout(&entry.layout).unwrap();
        let has = |path: &String| bundled.files.iter().any(|(embedded, _)| embedded == path);
        for path in &layout.metadata {
            assert!(has(path), "{} lacks {path}", entry.id);
        }
        let complete = [Precision::Int8, Precision::Float].map(|precision| {
            let mut parts = layout.parts(precision).iter();
            parts.all(|part| part.iter().any(has))
        });
        assert!(complete.contains(&true), "{} lacks graphs", entry.id);
        for (path, embedded) in bundled.files {
            let file = repository_models().join(bundled.id).join(path);
            assert_eq!(std::fs::read(file).unwrap(), *embedded, "{path}");
            bytes += embedded.len();
        }
    }
    assert!(
        BUNDLED
            .iter()
            .all(|bundled| catalogue::entry(bundled.id).unwrap().bundled)
    );
    assert!(bytes < 17_000_000, "{bytes} bytes are embedded");
}

#[tokio::test]
async fn an_import_copies_what_the_model_needs_in_both_precisions() {
    let (folder, store) = store();
    let copy = copy_of_nano(folder.path());
    std::fs::write(copy.join("flax_model.msgpack"), "not needed").unwrap();
    std::fs::write(copy.join("onnx/encoder_model.onnx_data"), "weights beside").unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let heard = Arc::clone(&done);
    let transfer = Transfer {
        progress: Some(Arc::new(move |step: TransferProgress| {
            let before = heard.swap(step.done_bytes, Ordering::SeqCst);
            assert!(before <= step.done_bytes && step.done_bytes <= step.total_bytes);
        })),
        ..Transfer::default()
    };
    let model = store
        .import(&copy, Some("our/nano"), &transfer)
        .await
        .unwrap();
    assert_eq!(done.load(Ordering::SeqCst), model.size_bytes());
    let paths: Vec<_> = model
        .manifest
        .files
        .iter()
        .map(|file| &file.path[..])
        .collect();
    assert_eq!(
        paths,
        [
            "added_tokens.json",
            "config.json",
            "generation_config.json",
            "merges.txt",
            "normalizer.json",
            "onnx/decoder_model_merged.onnx",
            "onnx/decoder_model_merged_quantized.onnx",
            "onnx/encoder_model.onnx",
            "onnx/encoder_model.onnx_data",
            "onnx/encoder_model_quantized.onnx",
            "onnx_timestamped/decoder_model_merged.onnx",
            "onnx_timestamped/decoder_model_merged_quantized.onnx",
            "preprocessor_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
        ]
    );
    assert_eq!(model.folder, store.root().join("our--nano"));
    assert_eq!(store.get("our/nano").await.unwrap(), model);
    assert!(model.manifest.words);
    assert_eq!(model.manifest.languages, None);
    let offered = model.offered("cpu");
    assert_eq!(offered.capability.model, "our/nano");
    assert_eq!(offered.capability.engine, "whisper");

    let again = store.import(&copy, Some("our/nano"), &transfer).await;
    assert!(matches!(again, Err(ModelStoreError::AlreadyInstalled(_))));
    store.remove("our/nano").await.unwrap();
    assert!(files_in(store.root()).is_empty());
    let gone = store.remove("our/nano").await;
    assert!(matches!(gone, Err(ModelStoreError::NotInstalled(_))));
}

#[tokio::test]
async fn word_times_are_read_from_the_decoder_itself() {
    let (folder, store) = store();
    let copy = copy_of_nano(folder.path());
    std::fs::remove_dir_all(copy.join("onnx_timestamped")).unwrap();
    let without = store
        .import(&copy, Some("without"), &Transfer::default())
        .await;
    assert!(!without.unwrap().manifest.words);

    let timestamped = repository_models().join("whisper-nano/onnx_timestamped");
    for file in [
        "decoder_model_merged.onnx",
        "decoder_model_merged_quantized.onnx",
    ] {
        std::fs::copy(timestamped.join(file), copy.join("onnx").join(file)).unwrap();
    }
    let with = store
        .import(&copy, Some("with"), &Transfer::default())
        .await;
    assert!(with.unwrap().manifest.words);
}

#[tokio::test]
async fn two_imports_of_one_id_leave_one_whole_model() {
    let (_folder, store) = store();
    let nano = repository_models().join("whisper-nano");
    let transfer = Transfer::default();
    let other = ModelStore::open(store.root()).unwrap();
    let (first, second) = tokio::join!(
        store.import(&nano, Some("ours"), &transfer),
        other.import(&nano, Some("ours"), &transfer),
    );
    assert!(first.is_ok() != second.is_ok());
    let model = store.get("ours").await.unwrap();
    for file in &model.manifest.files {
        let path = model.folder.join(&file.path);
        let (size, sha256) = staging::hash_file(&path, &CancellationToken::new()).unwrap();
        assert_eq!((size, &sha256), (file.size, &file.sha256));
    }
}

#[tokio::test]
async fn a_link_out_of_the_folder_is_refused_and_one_inside_is_followed() {
    let (folder, store) = store();
    let copy = copy_of_nano(folder.path());
    std::fs::rename(copy.join("config.json"), copy.join("real.json")).unwrap();
    std::os::unix::fs::symlink("real.json", copy.join("config.json")).unwrap();
    let model = store
        .import(&copy, Some("inside"), &Transfer::default())
        .await;
    assert!(!model.unwrap().folder.join("config.json").is_symlink());

    let secret = folder.path().join("secret.json");
    std::fs::rename(copy.join("real.json"), &secret).unwrap();
    std::fs::remove_file(copy.join("config.json")).unwrap();
    std::os::unix::fs::symlink(&secret, copy.join("config.json")).unwrap();
    let outside = store
        .import(&copy, Some("outside"), &Transfer::default())
        .await;
    let error = outside.unwrap_err();
    assert!(matches!(error, ModelStoreError::LinkOutside(_)), "{error}");
    assert_eq!(ids(&store).await, ["inside"]);
}

#[tokio::test]
async fn a_folder_that_nothing_runs_is_told_for_what_it_is() {
    let config = |model_type: &str| format!("{{\"model_type\": \"{model_type}\"}}");
    let cases: &[(&[(&str, &str)], &str)] = &[
        (
            &[
                ("encoder.onnx", ""),
                ("joiner.onnx", ""),
                ("tokens.txt", ""),
            ],
            "is a transducer (sherpa-onnx layout) model, which this version does not run yet",
        ),
        (
            &[("config.json", &config("vit")), ("onnx/model.onnx", "")],
            "holds no model in a layout Dalston knows",
        ),
        (
            &[("config.json", "{}"), ("model.bin", "")],
            "it holds CTranslate2 (faster-whisper) weights",
        ),
        (
            &[
                ("config.json", &config("whisper")),
                ("model.safetensors", ""),
            ],
            "it holds PyTorch weights",
        ),
        (&[("onnx/encoder_model.onnx", "")], "has no config.json"),
        (
            &[("notes.txt", "")],
            "holds no model in a layout Dalston knows",
        ),
        (&[], "holds no model in a layout Dalston knows"),
    ];
    for (files, expected) in cases {
        let (folder, store) = store();
        let model = folder.path().join("model");
        std::fs::create_dir_all(model.join("onnx")).unwrap();
        for (path, text) in *files {
            std::fs::write(model.join(path), text).unwrap();
        }
        let error = store.import(&model, None, &Transfer::default()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected), "{files:?}: {error}");
        assert!(files_in(store.root()).is_empty());
    }
}

#[tokio::test]
async fn every_bundled_model_is_recognised_by_its_files_as_what_the_catalogue_says() {
    let (_folder, store) = store();
    for model in store.unpack_bundled().await.unwrap() {
        let entry = catalogue::entry(model.id()).unwrap();
        if entry.engine != "silero-vad"
            && dalston_engines::registry::engine(&entry.engine).is_none()
        {
            continue;
        }
        let recognised = layout::recognise(&model.folder).unwrap();
        let found = (recognised.engine, recognised.stage, &recognised.layout[..]);
        assert_eq!(found, (&entry.engine[..], entry.stage, &entry.layout[..]));
        let files: BTreeSet<_> = model.manifest.files.iter().map(|file| &file.path).collect();
        assert_eq!(recognised.files.iter().collect::<BTreeSet<_>>(), files);
    }
}

#[tokio::test]
async fn an_incomplete_whisper_folder_is_refused_with_the_file_it_lacks() {
    let (folder, store) = store();
    let copy = copy_of_nano(folder.path());
    for name in [
        "decoder_model_merged",
        "decoder_with_past_model",
        "decoder_model",
    ] {
        for suffix in ["", "_quantized"] {
            std::fs::remove_file(copy.join(format!("onnx/{name}{suffix}.onnx"))).unwrap();
        }
    }
    let error = store.import(&copy, None, &Transfer::default()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("decoder_model_merged"), "{error}");
    assert!(files_in(store.root()).is_empty());
}

#[tokio::test]
async fn a_cancelled_import_leaves_nothing() {
    let (_folder, store) = store();
    let transfer = Transfer::default();
    let stop = transfer.cancel.clone();
    let transfer = Transfer {
        progress: Some(Arc::new(move |_| stop.cancel())),
        ..transfer
    };
    let nano = repository_models().join("whisper-nano");
    let error = store.import(&nano, None, &transfer).await.unwrap_err();
    assert!(matches!(error, ModelStoreError::Cancelled), "{error}");
    assert!(files_in(store.root()).is_empty());
    assert!(ids(&store).await.is_empty());
}

/// A file system of its own, 1 MB large, until dropped. `None` where mounting is not allowed.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(folder.path())
            .stderr(std::process::Stdio::null())
            .status();
        mount
            .is_ok_and(|status| status.success())
            .then(|| Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_left_on_it() {
    let full = std::io::Error::from_raw_os_error(28);
    let error = ModelStoreError::io("writing", Path::new("/models/x/config.json"))(full);
    assert!(error.to_string().contains("DALSTON_MODEL_DIR"), "{error}");

    // What follows needs a disk that can be filled.
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("not allowed to mount a small disk here: only the error's text was tested");
        return;
    };
    let store = ModelStore::open(disk.path()).unwrap();
    let nano = repository_models().join("whisper-nano");
    let error = store
        .import(&nano, None, &Transfer::default())
        .await
        .unwrap_err();
    assert!(matches!(error, ModelStoreError::DiskFull { .. }), "{error}");
    assert!(files_in(store.root()).is_empty());
}

#[tokio::test]
async fn a_folder_left_by_a_crash_is_no_model_and_in_nobody_s_way() {
    let (_folder, store) = store();
    let broken = store.root().join("our--broken");
    std::fs::create_dir_all(&broken).unwrap();
    std::fs::write(broken.join("config.json"), "{}").unwrap();
    std::fs::create_dir_all(store.root().join(".staging/ours/onnx")).unwrap();
    std::fs::write(store.root().join(".staging/ours/onnx/half.onnx"), "half").unwrap();
    let nano = repository_models().join("whisper-nano");
    let model = store
        .import(&nano, Some("ours"), &Transfer::default())
        .await;
    assert!(!model.unwrap().folder.join("onnx/half.onnx").exists());
    assert_eq!(ids(&store).await, ["ours"]);
    store.remove("our/broken").await.unwrap();
    assert!(!broken.exists());
}

#[tokio::test]
async fn a_bundled_model_is_not_removed() {
    let (_folder, store) = store();
    store.unpack_bundled().await.unwrap();
    let error = store.remove("whisper-nano").await.unwrap_err();
    assert!(matches!(error, ModelStoreError::Bundled(_)), "{error}");
    assert_eq!(ids(&store).await, bundled_ids());
}

#[test]
fn the_catalogue_serves_the_engines_there_are() {
    for engine in dalston_engines::registry::ENGINES {
        assert!(catalogue::catalogue().serves(engine.id), "{}", engine.id);
    }
    for (name, layout) in catalogue::catalogue().layouts() {
        assert!(catalogue::catalogue().serves(&layout.engine), "{name}");
    }
}
