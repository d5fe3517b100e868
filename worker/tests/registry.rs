//! The registry of models at work: pulls that a worker takes, models that workers share, removals that reach them all.

use std::path::{Path, PathBuf};

use dalston_schema::db::models::{self, PullOutcome, RegisteredModel};
use dalston_schema::db::workers;
use dalston_worker::WorkerConfig;
use dalston_worker::config::ModelSource;
use dalston_worker::model_store::{HubSettings, ModelStore, Transfer};

use crate::harness::{Harness, eventually};
use crate::hub_server::{Fault, HubServer};

const MODEL: &str = "org/our-whisper";
const ENCODER: &str = "onnx/encoder_model_quantized.onnx";

fn nano() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engines/models/whisper-nano")
}

/// A hub that has the nano weights as a repository that the catalogue does not know.
async fn hub() -> HubServer {
    let hub = HubServer::start().await;
    hub.add_whisper(MODEL);
    hub
}

/// Settings of one of several workers, each with models of its own.
fn config(harness: &Harness, hub: &HubServer, name: &str) -> WorkerConfig {
    let mut config = harness.config();
    config.model_dir = config.model_dir.join(name);
    config.hub = HubSettings {
        endpoint: hub.url.clone(),
        retry_after: std::time::Duration::from_millis(1),
        ..HubSettings::default()
    };
    config
}

async fn registered(harness: &Harness) -> Option<RegisteredModel> {
    models::get(&harness.database.pool, MODEL).await.unwrap()
}

async fn until(harness: &Harness, status: &str) -> RegisteredModel {
    eventually(status, async || {
        registered(harness)
            .await
            .filter(|model| model.status == status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_workers_pulls_what_was_asked_for_and_offers_it() {
    let (harness, hub) = (Harness::new().await, hub().await);
    // The encoder hangs until the worker's read fails: time to see that the pull is under way.
    let path = format!("/{MODEL}/resolve/{}/{ENCODER}", crate::hub_server::COMMIT);
    hub.fail(&path, [Fault::Cut(1000), Fault::Cut(1000)]);
    let pool = &harness.database.pool;
    let configs = ["one", "two"].map(|name| config(&harness, &hub, name));
    let running = configs.clone().map(|config| harness.run(config));
    eventually("two workers", async || {
        (workers::list(pool).await.unwrap().len() == 2).then_some(())
    })
    .await;
    let outcome = models::request_pull(pool, MODEL, None, None, false).await;
    assert_eq!(outcome.unwrap(), PullOutcome::Started);
    let ready = until(&harness, "ready").await;
    assert_eq!(ready.workers, 1);
    assert_eq!(ready.engine.as_deref(), Some("whisper"));
    assert_eq!(ready.downloaded_bytes, ready.expected_bytes);
    let offered = workers::offered(pool).await.unwrap();
    assert!(offered.iter().any(|offer| offer.capability.model == MODEL));
    assert_eq!(hub.ranges("config.json").len(), 1);

    // Whoever has it deletes it.
    models::remove(pool, MODEL, true).await.unwrap();
    eventually("a removal", async || {
        registered(&harness).await.is_none().then_some(())
    })
    .await;
    for config in &configs {
        assert!(!config.model_dir.join("org--our-whisper").exists());
    }
    for worker in running {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_fails_says_why_and_can_be_asked_for_again() {
    let (harness, hub) = (Harness::new().await, hub().await);
    let pool = &harness.database.pool;
    let info = format!("/api/models/{MODEL}/revision/main");
    let gated: &[(&str, &str)] = &[("X-Error-Code", "GatedRepo")];
    hub.fail(&info, [Fault::Status(403, gated)]);
    let worker = harness.run(config(&harness, &hub, "one"));
    models::request_pull(pool, MODEL, None, None, false)
        .await
        .unwrap();
    let failed = until(&harness, "failed").await;
    assert!(failed.error.unwrap().contains("HF_TOKEN"));
    models::request_pull(pool, MODEL, None, None, false)
        .await
        .unwrap();
    assert_eq!(until(&harness, "ready").await.error, None);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_worker_fetches_from_the_object_store_what_another_has() {
    let (harness, hub) = (Harness::new().await, hub().await);
    let mut configs = ["one", "two"].map(|name| config(&harness, &hub, name));
    for config in &mut configs {
        config.model_source = ModelSource::ObjectStore;
    }
    let [first, second] = configs;
    let stores = [&first, &second].map(|config| ModelStore::open(&config.model_dir).unwrap());
    let imported = stores[0]
        .import(&nano(), Some(MODEL), &Transfer::default())
        .await
        .unwrap();
    let one = harness.run(first);
    eventually("a copy in the object store", async || {
        registered(&harness).await.filter(|model| model.stored)
    })
    .await;
    one.stop().await;

    let two = harness.run(second);
    eventually("the model on the second worker", async || {
        registered(&harness)
            .await
            .filter(|model| model.workers == 1 && model.status == "ready")
    })
    .await;
    let fetched = stores[1].get(MODEL).await.unwrap();
    assert_eq!(fetched.manifest, imported.manifest);
    for file in &fetched.manifest.files {
        let read = |folder: &Path| std::fs::read(folder.join(&file.path)).unwrap();
        assert_eq!(
            read(&fetched.folder),
            read(&imported.folder),
            "{}",
            file.path
        );
    }
    let shared = models::in_object_store(&harness.database.pool)
        .await
        .unwrap();
    // What comes with the program is not copied about.
    assert_eq!(shared.len(), 1);
    assert!(hub.seen().is_empty());
    two.stop().await;
}
