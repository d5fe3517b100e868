use std::sync::Mutex;
use std::time::Duration;

use dalston_schema::catalogue::Precision;

use super::hub_server::{COMMIT, Fault, HubServer};
use super::{SmallDisk, files_in, ids, repository_models, store};
use crate::model_store::*;

const TINY: &str = "onnx-community/whisper-tiny_timestamped";
const ENCODER: &str = "onnx/encoder_model_quantized.onnx";

/// A hub that has the nano weights under `repository`, with word times, as a published repository has them.
async fn hub_with(repository: &str) -> HubServer {
    let hub = HubServer::start().await;
    hub.add_whisper(repository);
    let nano = repository_models().join("whisper-nano");
    for path in ["vocab.json", "onnx/encoder_model.onnx"] {
        hub.add(repository, path, &std::fs::read(nano.join(path)).unwrap());
    }
    let decoder = nano.join("onnx_timestamped/decoder_model_merged_quantized.onnx");
    let decoder = std::fs::read(decoder).unwrap();
    hub.add(
        repository,
        "onnx/decoder_model_merged_quantized.onnx",
        &decoder,
    );
    hub.add(repository, "README.md", b"A model.\n");
    hub.add(repository, "flax_model.msgpack", b"not wanted");
    hub
}

fn settings(hub: &HubServer) -> HubSettings {
    HubSettings {
        endpoint: hub.url.clone(),
        retry_after: Duration::from_millis(1),
        ..HubSettings::default()
    }
}

fn file_path(repository: &str, file: &str) -> String {
    format!("/{repository}/resolve/{COMMIT}/{file}")
}

async fn installed_encoder(store: &ModelStore, id: &str) -> bool {
    let model = store.get(id).await.unwrap();
    let nano = repository_models().join("whisper-nano");
    std::fs::read(model.folder.join(ENCODER)).unwrap() == std::fs::read(nano.join(ENCODER)).unwrap()
}

#[tokio::test]
async fn a_pull_by_another_name_fetches_what_the_model_needs_and_no_more() {
    let (_folder, store) = store();
    let hub = hub_with(TINY).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&told);
    let transfer = Transfer {
        progress: Some(Arc::new(move |step| hears.lock().unwrap().push(step))),
        ..Transfer::default()
    };
    let model = store
        .pull("Systran/faster-whisper-tiny", &settings(&hub), &transfer)
        .await
        .unwrap();

    assert_eq!(model.id(), TINY);
    let manifest = &model.manifest;
    assert_eq!(manifest.name, "Whisper tiny");
    assert_eq!(manifest.languages, None);
    assert!(manifest.words && manifest.translates);
    assert_eq!(
        manifest.source,
        Source::Hub {
            repository: TINY.to_owned(),
            revision: COMMIT.to_owned(),
        }
    );
    let paths: Vec<_> = manifest.files.iter().map(|file| &file.path[..]).collect();
    assert_eq!(
        paths,
        [
            "README.md",
            "config.json",
            "generation_config.json",
            "onnx/decoder_model_merged_quantized.onnx",
            ENCODER,
            "preprocessor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
        ]
    );
    for file in &manifest.files {
        let path = model.folder.join(&file.path);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), file.size);
    }
    assert!(installed_encoder(&store, TINY).await);
    {
        let told = told.lock().unwrap();
        let last = told.last().unwrap();
        assert_eq!(last.done_bytes, last.total_bytes);
        assert_eq!(last.total_bytes, model.size_bytes());
        assert!(told.is_sorted_by_key(|step| step.done_bytes));
    }
    assert!(
        !store
            .root()
            .join(".downloads")
            .join("onnx-community--whisper-tiny_timestamped")
            .exists()
    );

    // What is here is not fetched again, with or without a network.
    let requests = hub.seen().len();
    let offline = HubSettings {
        offline: true,
        ..settings(&hub)
    };
    let again = store
        .pull("tiny", &offline, &Transfer::default())
        .await
        .unwrap();
    assert_eq!(again, model);
    assert_eq!(hub.seen().len(), requests);
}

#[tokio::test]
async fn a_repository_outside_the_catalogue_is_read_from_its_files_page_by_page() {
    let (_folder, store) = store();
    let hub = hub_with("our/medical-whisper").await;
    hub.tree_only();
    let model = store
        .pull("our/medical-whisper", &settings(&hub), &Transfer::default())
        .await
        .unwrap();
    assert_eq!(model.manifest.engine, "whisper");
    assert_eq!(model.manifest.files.len(), 9);

    // No float decoder there.
    let float = HubSettings {
        precision: Some(Precision::Float),
        ..settings(&hub)
    };
    store.remove("our/medical-whisper").await.unwrap();
    let error = store
        .pull("our/medical-whisper", &float, &Transfer::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("onnx/decoder_model_merged.onnx"), "{error}");
}

#[tokio::test]
async fn a_forced_pull_or_one_of_other_weights_replaces_the_model_that_is_here() {
    let (_folder, store) = store();
    let hub = hub_with(TINY).await;
    let plain = settings(&hub);
    let first = store
        .pull(TINY, &plain, &Transfer::default())
        .await
        .unwrap();
    let nano = repository_models().join("whisper-nano");
    let decoder = std::fs::read(nano.join("onnx_timestamped/decoder_model_merged.onnx")).unwrap();
    hub.add(TINY, "onnx/decoder_model_merged.onnx", &decoder);
    let with_precision = |precision| HubSettings {
        precision: Some(precision),
        ..plain.clone()
    };

    let same = with_precision(Precision::Int8);
    let same = store.pull("tiny", &same, &Transfer::default()).await;
    assert_eq!(same.unwrap(), first);
    let float = with_precision(Precision::Float);
    let float = store.pull("tiny", &float, &Transfer::default()).await;
    let float = float.unwrap();
    assert!(float.folder.join("onnx/encoder_model.onnx").is_file());
    assert!(!float.folder.join(ENCODER).exists());

    let forced = HubSettings {
        force: true,
        ..plain.clone()
    };
    let damaged = file_path(TINY, "config.json");
    hub.fail(&damaged, [Fault::Damage]);
    let failed = store.pull("tiny", &forced, &Transfer::default()).await;
    assert!(failed.is_err());
    assert_eq!(
        store.get(TINY).await.unwrap(),
        float,
        "it stays until the new one is whole"
    );
    let again = store.pull("tiny", &forced, &Transfer::default()).await;
    assert_eq!(again.unwrap().manifest.files, first.manifest.files);
    assert!(installed_encoder(&store, TINY).await);
}

#[tokio::test]
async fn a_cut_connection_is_taken_up_where_it_broke() {
    let (_folder, store) = store();
    let hub = hub_with(TINY).await;
    let encoder = file_path(TINY, ENCODER);
    hub.fail(
        &encoder,
        [
            Fault::Cut(500_000),
            Fault::Status(503, &[("Retry-After", "0")]),
            Fault::Cut(300_000),
            Fault::Cut(0),
        ],
    );
    let hub_settings = HubSettings {
        attempts: 3,
        ..settings(&hub)
    };
    store
        .pull(TINY, &hub_settings, &Transfer::default())
        .await
        .unwrap();
    assert!(installed_encoder(&store, TINY).await);
    let from = |bytes: u64| Some(format!("bytes={bytes}-"));
    assert_eq!(
        hub.ranges(ENCODER),
        [
            None,
            from(500_000),
            from(500_000),
            from(800_000),
            from(800_000)
        ]
    );
}

#[tokio::test]
async fn a_pull_that_gave_up_is_taken_up_by_the_next_one() {
    let (_folder, store) = store();
    let hub = hub_with(TINY).await;
    let once = HubSettings {
        attempts: 1,
        ..settings(&hub)
    };
    hub.fail(&file_path(TINY, ENCODER), [Fault::Cut(400_000)]);
    let error = store.pull(TINY, &once, &Transfer::default()).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, ModelStoreError::Unreachable { .. }),
        "{error}"
    );
    assert!(ids(&store).await.is_empty());

    // A server that knows no ranges sends it all again, which is as good.
    hub.fail(
        &file_path(TINY, ENCODER),
        [Fault::Cut(100_000), Fault::IgnoreRange],
    );
    let twice = HubSettings {
        attempts: 2,
        ..settings(&hub)
    };
    store
        .pull(TINY, &twice, &Transfer::default())
        .await
        .unwrap();
    assert!(installed_encoder(&store, TINY).await);
    let ranges = hub.ranges(ENCODER);
    assert_eq!(
        ranges[1..],
        [
            Some("bytes=400000-".to_owned()),
            Some("bytes=500000-".to_owned())
        ]
    );
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_deleted() {
    for file in [ENCODER, "config.json"] {
        let (_folder, store) = store();
        let hub = hub_with(TINY).await;
        hub.fail(&file_path(TINY, file), [Fault::Damage]);
        let error = store
            .pull(TINY, &settings(&hub), &Transfer::default())
            .await
            .unwrap_err();
        assert!(
            matches!(&error, ModelStoreError::Checksum { file: named, .. } if named == file),
            "{error}"
        );
        assert!(ids(&store).await.is_empty());
        store
            .pull(TINY, &settings(&hub), &Transfer::default())
            .await
            .unwrap();
        assert_eq!(
            hub.ranges(file),
            [None, None],
            "the second pull starts anew"
        );
    }
}

#[tokio::test]
async fn a_part_that_went_bad_on_the_disk_is_fetched_anew() {
    let (_folder, store) = store();
    let hub = hub_with(TINY).await;
    let once = HubSettings {
        attempts: 1,
        ..settings(&hub)
    };
    hub.fail(&file_path(TINY, ENCODER), [Fault::Cut(400_000)]);
    store
        .pull(TINY, &once, &Transfer::default())
        .await
        .unwrap_err();
    let downloads = store
        .root()
        .join(".downloads")
        .join("onnx-community--whisper-tiny_timestamped");
    let part = std::fs::read_dir(downloads)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("encoder_model"))
        .unwrap();
    std::fs::write(&part, vec![0; 400_000]).unwrap();
    store.pull(TINY, &once, &Transfer::default()).await.unwrap();
    assert!(installed_encoder(&store, TINY).await);
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_where_it_redirects() {
    let (_folder, store) = store();
    let hub = hub_with(TINY).await;
    let cdn = hub_with(TINY).await;
    let encoder = file_path(TINY, ENCODER);
    hub.fail(
        &encoder,
        [Fault::Redirect(format!("{}/cdn{encoder}", cdn.url))],
    );
    let config = file_path(TINY, "config.json");
    hub.fail(&config, [Fault::Redirect(format!("/cdn{config}"))]);
    let with_token = HubSettings {
        token: Some("hf_secret".into()),
        ..settings(&hub)
    };
    assert!(!format!("{with_token:?}").contains("hf_secret"));
    store
        .pull(TINY, &with_token, &Transfer::default())
        .await
        .unwrap();
    let bearer = Some("Bearer hf_secret".to_owned());
    assert!(hub.seen().iter().all(|seen| seen.authorization == bearer));
    assert_eq!(cdn.seen().len(), 1);
    assert!(cdn.seen()[0].path.starts_with("/cdn/"));
    assert_eq!(cdn.seen()[0].authorization, None);
}

#[tokio::test]
async fn a_refusal_of_the_hub_is_told_with_its_remedy() {
    let revision = format!("/api/models/{TINY}/revision/main");
    let cases: [(Fault, Option<&str>, &str); 7] = [
        (
            Fault::Status(401, &[("X-Error-Code", "RepoNotFound")]),
            None,
            "no public repository",
        ),
        (
            Fault::Status(404, &[("X-Error-Code", "RepoNotFound")]),
            Some("t"),
            "that HF_TOKEN may read",
        ),
        (
            Fault::Status(
                403,
                &[
                    ("X-Error-Code", "GatedRepo"),
                    ("X-Error-Message", "Access is restricted"),
                ],
            ),
            Some("t"),
            "(Access is restricted): open its page on the hub, accept its conditions",
        ),
        (Fault::Status(401, &[]), None, "set HF_TOKEN to a token"),
        (
            Fault::Status(401, &[]),
            Some("t"),
            "HF_TOKEN is set and not accepted",
        ),
        (
            Fault::Status(404, &[("X-Error-Code", "RevisionNotFound")]),
            None,
            "no such revision",
        ),
        (Fault::Status(418, &[]), None, "418"),
    ];
    for (fault, token, expected) in cases {
        let (_folder, store) = store();
        let hub = hub_with(TINY).await;
        hub.tree_only();
        hub.fail(&revision, [fault.clone()]);
        hub.fail(&format!("/api/models/{TINY}/tree/main"), [fault.clone()]);
        let hub_settings = HubSettings {
            token: token.map(|token| token.to_owned().into()),
            ..settings(&hub)
        };
        let error = store
            .pull(TINY, &hub_settings, &Transfer::default())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{fault:?}: {error}");
    }
}

#[tokio::test]
async fn two_pulls_of_one_model_fetch_every_file_once() {
    let (_folder, store) = store();
    let hub = hub_with(TINY).await;
    let (hub_settings, transfer) = (settings(&hub), Transfer::default());
    let other = ModelStore::open(store.root()).unwrap();
    let (first, second) = tokio::join!(
        store.pull("tiny", &hub_settings, &transfer),
        other.pull(TINY, &hub_settings, &transfer),
    );
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(hub.ranges(ENCODER), [None]);
    assert_eq!(hub.ranges("config.json"), [None]);
}

#[tokio::test]
async fn a_cancelled_pull_stops_at_once_and_goes_on_later() {
    let (_folder, store) = store();
    let hub = hub_with(TINY).await;
    hub.fail(&file_path(TINY, ENCODER), [Fault::Stall(200_000)]);
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let transfer = Transfer {
        cancel,
        progress: Some(Arc::new(move |step: TransferProgress| {
            if step.file == ENCODER {
                stop.cancel();
            }
        })),
    };
    let hub_settings = settings(&hub);
    let pull = store.pull(TINY, &hub_settings, &transfer);
    let pull = tokio::time::timeout(Duration::from_secs(20), pull);
    let error = pull.await.unwrap().unwrap_err();
    assert!(matches!(error, ModelStoreError::Cancelled), "{error}");
    assert!(ids(&store).await.is_empty());

    store
        .pull(TINY, &settings(&hub), &Transfer::default())
        .await
        .unwrap();
    assert!(installed_encoder(&store, TINY).await);
    let resumed = hub.ranges(ENCODER)[1].clone();
    assert!(
        resumed.is_some(),
        "the second pull goes on where the first stopped"
    );
}

#[tokio::test]
async fn without_a_network_the_error_names_the_ways_out() {
    let (_folder, store) = store();
    let hub = hub_with(TINY).await;
    let offline = HubSettings {
        offline: true,
        ..settings(&hub)
    };
    let error = store.pull(TINY, &offline, &Transfer::default()).await;
    let error = error.unwrap_err().to_string();
    for part in ["DALSTON_OFFLINE", "dalston models import"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(hub.seen().is_empty());

    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let nobody = HubSettings {
        endpoint: closed,
        attempts: 2,
        ..settings(&hub)
    };
    let error = store.pull(TINY, &nobody, &Transfer::default()).await;
    let error = error.unwrap_err().to_string();
    for part in ["cannot be reached", "HF_ENDPOINT", "dalston models import"] {
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_be_pulled_is_told_before_anything_is_asked() {
    let (_folder, store) = store();
    let hub = HubServer::start().await;
    for (name, expected) in [
        ("auto", "give a model's id"),
        ("whisper-1", "give a model's id"),
        ("riva", "Pull onnx-community/"),
        ("whisper-99", "there is no model whisper-99"),
        ("../etc", "no model id"),
    ] {
        let error = store
            .pull(name, &settings(&hub), &Transfer::default())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    let bundled = store
        .pull("whisper-nano", &settings(&hub), &Transfer::default())
        .await
        .unwrap();
    assert_eq!(bundled.manifest.source, Source::Bundled);
    assert!(hub.seen().is_empty());

    hub.add("some/language-model", "config.json", b"{}");
    let error = store
        .pull("some/language-model", &settings(&hub), &Transfer::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("no complete ONNX export"), "{error}");
}

#[tokio::test]
async fn a_pull_that_fills_the_disk_gives_it_back() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("not allowed to mount a small disk here: nothing was tested");
        return;
    };
    let store = ModelStore::open(disk.path()).unwrap();
    let hub = hub_with(TINY).await;
    let error = store
        .pull(TINY, &settings(&hub), &Transfer::default())
        .await;
    let error = error.unwrap_err();
    assert!(matches!(error, ModelStoreError::DiskFull { .. }), "{error}");
    assert!(files_in(store.root()).is_empty());
}
