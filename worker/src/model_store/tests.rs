#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use super::*;

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

#[tokio::test]
async fn bundled_models_are_unpacked_once_and_repaired_when_they_differ() {
    let (_folder, store) = store();
    let first = store.unpack_bundled().await.unwrap();
    assert_eq!(ids(&store).await, ["silero-vad", "whisper-nano"]);
    assert_eq!(store.unpack_bundled().await.unwrap(), first);

    let config = store.root().join("whisper-nano/config.json");
    std::fs::write(&config, "{}").unwrap();
    std::fs::remove_file(store.root().join("silero-vad/silero_vad.onnx")).unwrap();
    let again = store.unpack_bundled().await.unwrap();
    assert_eq!(again[0].manifest.files, first[0].manifest.files);
    assert_ne!(std::fs::read(&config).unwrap(), b"{}");
    assert!(store.root().join("silero-vad/silero_vad.onnx").is_file());
}
