//! Models that come, go and rest.

use std::path::Path;
use std::time::Duration;

use dalston_schema::db::workers;
use dalston_worker::model_store::{InstalledModel, ModelStore, Transfer};
use dalston_worker::models::PresentModel;

use crate::harness::{Harness, eventually, utterance, whisper};

async fn offered_models(harness: &Harness) -> Vec<String> {
    workers::offered(&harness.database.pool)
        .await
        .unwrap()
        .into_iter()
        .filter(|offer| offer.capability.engine == "whisper")
        .map(|offer| offer.capability.model)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_added_or_removed_while_running_is_announced() {
    let harness = Harness::new().await;
    let config = harness.config();
    let store = ModelStore::open(&config.model_dir).unwrap();
    let worker = harness.run(config);
    let until_offered = async |expected: &[&str]| {
        eventually("an announcement", async || {
            (offered_models(&harness).await == expected).then_some(())
        })
        .await;
    };
    until_offered(&["whisper-nano"]).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engines/models/whisper-nano");
    store
        .import(&folder, Some("copy"), &Transfer::default())
        .await
        .unwrap();
    until_offered(&["copy", "whisper-nano"]).await;
    let mut wish = whisper(false);
    wish.model = "copy";
    let job = harness.submit(&utterance("dev-00001"), &wish).await;
    harness.transcript(job).await;
    store.remove("copy").await.unwrap();
    until_offered(&["whisper-nano"]).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_kept_warm_and_unloaded_when_idle() {
    let harness = Harness::new().await;
    let mut config = harness.config();
    config.model_idle_timeout = Some(Duration::from_secs(2));
    let worker = harness.run(config);
    let job = harness
        .submit(&utterance("dev-00001"), &whisper(false))
        .await;
    harness.transcript(job).await;
    let loaded = async || -> Vec<String> {
        let workers = workers::list(&harness.database.pool).await.unwrap();
        workers
            .into_iter()
            .flat_map(|worker| worker.loaded_models)
            .collect()
    };
    eventually("a loaded model", async || {
        (loaded().await == ["whisper-nano"]).then_some(())
    })
    .await;
    eventually("an unloaded model", async || {
        loaded().await.is_empty().then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_model_takes_the_memory_of_the_first() {
    let harness = Harness::new().await;
    let mut config = harness.config();
    let store = ModelStore::open(&config.model_dir).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engines/models/whisper-nano");
    let copy = store
        .import(&folder, Some("copy"), &Transfer::default())
        .await
        .unwrap();
    let bundled = store.unpack_bundled().await.unwrap();
    let nano = bundled
        .iter()
        .find(|model| model.id() == "whisper-nano")
        .unwrap();
    let bytes = |model: &InstalledModel| {
        PresentModel::look(model.clone(), dalston_engines::Device::Cpu).memory_bytes()
    };
    config.model_memory_budget = bytes(&copy) + bytes(nano) - 1;
    let worker = harness.run(config);
    let mut wish = whisper(false);
    for model in ["whisper-nano", "copy", "whisper-nano"] {
        wish.model = model;
        let job = harness.submit(&utterance("dev-00001"), &wish).await;
        harness.transcript(job).await;
        eventually("one loaded model", async || {
            let workers = workers::list(&harness.database.pool).await.unwrap();
            (workers[0].loaded_models == [model]).then_some(())
        })
        .await;
    }
    worker.stop().await;
}
