//! Models that come, go and rest.

use std::time::Duration;

use dalston_schema::db::workers;
use dalston_worker::model_store::ModelStore;

use crate::harness::{Harness, eventually, utterance, whisper};

async fn offered_models(harness: &Harness) -> Vec<String> {
    workers::offered(&harness.database.pool)
        .await
        .unwrap()
        .into_iter()
        .map(|offer| offer.capability.model)
        .filter(|model| !model.is_empty() && model != "sleep")
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_removed_or_added_while_running_is_announced() {
    let harness = Harness::new().await;
    let config = harness.config();
    let store = ModelStore::open(&config.model_dir).unwrap();
    let worker = harness.run(config);
    for change in ["present", "removed", "added"] {
        match change {
            "removed" => store.remove("whisper-nano").await.unwrap(),
            "added" => drop(store.unpack_bundled().await.unwrap()),
            _ => {}
        }
        let expected: &[&str] = if change == "removed" {
            &[]
        } else {
            &["whisper-nano"]
        };
        eventually(change, async || {
            (offered_models(&harness).await == expected).then_some(())
        })
        .await;
    }
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
    let loaded = async || {
        let workers = workers::list(&harness.database.pool).await.unwrap();
        workers
            .into_iter()
            .flat_map(|worker| worker.loaded_models)
            .collect::<Vec<_>>()
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
