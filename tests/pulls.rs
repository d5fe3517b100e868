//! Models that come because a job waits for them, from a hub on loopback.

use serde_json::Value;

use crate::hub_server::{Fault, HubServer};
use crate::product::{Cluster, Product, eventually};
use crate::recordings::utterance;

/// A model of the catalogue. The hub here has the bundled weights under its name.
const MODEL: &str = "onnx-community/whisper-base_timestamped";
const ASKED_FOR: (&str, &str) = ("model", "whisper-base");

/// A product whose jobs wait for their models, at most so many seconds, and whose hub is this.
async fn product(hub: &HubServer, wait_seconds: &str, more: &[(&str, &str)]) -> Product {
    let settings = [
        ("DALSTON_ENGINE_UNAVAILABLE_BEHAVIOR", "wait"),
        ("DALSTON_ENGINE_WAIT_TIMEOUT_SECONDS", wait_seconds),
        ("HF_ENDPOINT", &hub.url),
    ];
    let settings = [settings.as_slice(), more].concat();
    Product::start_with(Cluster::shared(), &settings).await
}

/// What `/v1/engines/capabilities` says of the model, once it says this of its status.
async fn missing(product: &Product, status: &str) -> Value {
    eventually(&format!("a missing model that is {status}"), async || {
        let capabilities = product.get("/v1/engines/capabilities").await;
        let mut missing = capabilities["missing"].as_array()?.iter();
        missing
            .find(|missing| missing["model_id"] == MODEL && missing["model_status"] == status)
            .cloned()
    })
    .await
}

#[tokio::test]
async fn a_model_that_jobs_wait_for_is_pulled_once_and_then_they_run() {
    let hub = HubServer::start().await;
    hub.add_whisper(MODEL);
    let mut product = product(&hub, "60", &[]).await;
    // This one may not offer the model, so the pull is not for it.
    product
        .start_worker_as(&["--capabilities", "prepare,merge"], &[])
        .await;
    let first = product.submit(&utterance("test-00017"), &[ASKED_FOR]).await;
    let second = product.submit(&utterance("test-00000"), &[ASKED_FOR]).await;
    let told = missing(&product, "downloading").await;
    assert_eq!(told["downloaded_bytes"], 0, "{told:#}");
    let remedy = told["remedy"].as_str().unwrap();
    assert!(remedy.contains("is being pulled"), "{remedy}");
    assert!(hub.seen().is_empty());

    for name in ["one", "two"] {
        let folder = product.folder().join(name).to_str().unwrap().to_owned();
        product
            .start_worker_with(&[("DALSTON_MODEL_DIR", &folder)])
            .await;
    }
    for job in [&first, &second] {
        let body = product.wait_completed(job).await;
        assert!(!body["text"].as_str().unwrap().is_empty(), "{body:#}");
    }
    assert_eq!(hub.ranges("config.json").len(), 1, "{:?}", hub.seen());
    let model = eventually("the pull to be recorded", async || {
        let model = product.get(&format!("/v1/models/{MODEL}")).await;
        (model["status"] == "ready").then_some(model)
    })
    .await;
    assert_eq!(model["downloaded_bytes"], model["size_bytes"], "{model:#}");
    product.assert_consistent().await;
}

#[tokio::test]
async fn a_pull_that_fails_is_told_while_jobs_wait_and_is_the_reason_they_fail() {
    let hub = HubServer::start().await;
    hub.add_whisper(MODEL);
    let gated: &[(&str, &str)] = &[("X-Error-Code", "GatedRepo")];
    let info = format!("/api/models/{MODEL}/revision/main");
    hub.fail(&info, [Fault::Status(403, gated)]);
    let mut product = product(&hub, "4", &[]).await;
    product.start_worker().await;
    let job = product.submit(&utterance("test-00017"), &[ASKED_FOR]).await;
    let told = missing(&product, "failed").await;
    let why = told["pull_error"].as_str().unwrap();
    assert!(why.contains("HF_TOKEN"), "{told:#}");
    let error = product.wait_for(&job, &["failed"]).await["error"].clone();
    let error = error.as_str().unwrap();
    assert!(error.contains("could not be pulled: "), "{error}");
    assert!(error.contains("HF_TOKEN"), "{error}");
    product.assert_consistent().await;
}

#[tokio::test]
async fn nothing_is_pulled_unasked_where_that_is_switched_off_or_models_are_offline() {
    for (off, by_hand) in [
        (("DALSTON_PULL_NEEDED_MODELS", "false"), "models pull"),
        (("DALSTON_OFFLINE", "true"), "import"),
    ] {
        let hub = HubServer::start().await;
        hub.add_whisper(MODEL);
        let mut product = product(&hub, "2", &[off]).await;
        product.start_worker().await;
        let job = product.submit(&utterance("test-00000"), &[ASKED_FOR]).await;
        let told = missing(&product, "not_downloaded").await;
        let remedy = told["remedy"].as_str().unwrap();
        assert!(remedy.contains(by_hand), "{remedy}");
        product.wait_for(&job, &["failed"]).await;
        assert!(hub.seen().is_empty(), "{off:?}");
    }
}
