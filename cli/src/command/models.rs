//! `dalston models`: the models on this machine, or with `--server` those of another.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use dalston_schema::catalogue::{self, Entry, Precision};
use dalston_worker::model_store::{
    HubSettings, InstalledModel, ModelStore, Transfer, TransferProgress,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::config::Config;
use crate::local_server::{Absent, Connection};
use crate::{print, stop};

/// How often a pull on a server is asked about.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The `dalston models` commands.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  dalston models list --catalogue
  dalston models pull onnx-community/whisper-base       # goes on where an interrupted pull stopped
  dalston models import ~/exports/my-whisper --id my/whisper
  dalston models rm onnx-community/whisper-base

Without --server they work on DALSTON_MODEL_DIR; a running worker notices within seconds. HF_ENDPOINT and HF_TOKEN
choose another hub and a token.")]
pub enum Models {
    /// List the models here
    List(List),
    /// Fetch a published model
    Pull(Pull),
    /// Copy a folder in a published layout
    Import(Import),
    /// Remove a model's files
    Rm(Remove),
}

#[derive(Debug, Args)]
pub struct List {
    /// Only this model
    id: Option<String>,
    /// Only models of this engine, for example whisper
    #[arg(long, short = 'r', value_name = "ENGINE")]
    engine_id: Option<String>,
    /// Also published models that could be pulled
    #[arg(long)]
    catalogue: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Pull {
    /// A model of the catalogue, or a hub repository with an ONNX export that Dalston runs
    id: String,
    /// Fetch it again although it is here
    #[arg(long)]
    force: bool,
    /// Weights to fetch; without it int8, or float where there is no int8
    #[arg(long, value_parser = ["int8", "float"])]
    precision: Option<String>,
    /// Branch, tag or commit
    #[arg(long, default_value = "main")]
    revision: String,
}

#[derive(Debug, Args)]
pub struct Import {
    /// The model's folder
    folder: PathBuf,
    /// Id to give it; without it, the folder's name
    #[arg(long)]
    id: Option<String>,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// The model's id
    id: String,
    /// With --server: forget also what users and the hub said of it
    #[arg(long)]
    purge: bool,
}

/// Runs one of the commands.
pub async fn run(command: Models, config: Config, quiet: bool) -> anyhow::Result<()> {
    if config.server.is_some() {
        let client = Connection::open(&config, Absent::Fail)
            .await?
            .client
            .clone();
        return on_server(command, &client, quiet).await;
    }
    let store = ModelStore::open(&config.model_dir)?;
    store.unpack_bundled().await?;
    match command {
        Models::List(options) => list(&store, &options).await,
        Models::Pull(options) => pull(&store, &options, &config, quiet).await,
        Models::Import(options) => {
            let (transfer, bar) = transfer(quiet)?;
            let imported = store
                .import(&options.folder, options.id.as_deref(), &transfer)
                .await;
            bar.finish_and_clear();
            print::line(format!("{} is here.", imported?.id()));
            Ok(())
        }
        Models::Rm(options) => {
            store.remove(&options.id).await?;
            print::line(format!("{} is removed.", options.id));
            Ok(())
        }
    }
}

async fn list(store: &ModelStore, options: &List) -> anyhow::Result<()> {
    let here = store.list().await?;
    let published = catalogue::entries()
        .iter()
        .filter(|entry| options.catalogue && !here.iter().any(|model| model.id() == entry.id));
    let all: Vec<Value> = here
        .iter()
        .map(installed)
        .chain(published.map(pullable))
        .collect();
    let wanted = |model: &Value| {
        options
            .id
            .as_ref()
            .is_none_or(|id| model["id"] == id.as_str())
            && options
                .engine_id
                .as_ref()
                .is_none_or(|engine| model["engine_id"] == engine.as_str())
    };
    let found: Vec<Value> = all.into_iter().filter(wanted).collect();
    show(&found, options)
}

fn show(models: &[Value], options: &List) -> anyhow::Result<()> {
    if let (Some(id), true) = (&options.id, models.is_empty()) {
        bail!("Model not found: {id}. See `dalston models list --catalogue`");
    }
    if options.json {
        print::json(&json!({ "object": "list", "data": models }));
        return Ok(());
    }
    let rows: Vec<[String; 6]> = models.iter().map(row).collect();
    print::line(print::table(
        ["ID", "STATUS", "STAGE", "ENGINE", "SIZE", "LANGUAGES"],
        &rows,
    ));
    Ok(())
}

/// A model here, in the form the API gives.
fn installed(model: &InstalledModel) -> Value {
    json!({
        "id": model.id(),
        "object": "model",
        "name": model.manifest.name,
        "engine_id": model.manifest.engine,
        "stage": model.manifest.stage,
        "status": "ready",
        "download_path": model.folder,
        "size_bytes": model.size_bytes(),
        "languages": model.manifest.languages,
        "word_timestamps": model.manifest.words,
        "source": model.manifest.source,
    })
}

/// A model that could be pulled, in the same form.
fn pullable(entry: &Entry) -> Value {
    json!({
        "id": entry.id,
        "object": "model",
        "name": entry.name,
        "engine_id": entry.engine,
        "stage": entry.stage,
        "status": "not_downloaded",
        "download_path": null,
        "size_bytes": entry.size_bytes(Precision::Int8),
        "languages": entry.languages,
        "word_timestamps": entry.words,
        "source": null,
    })
}

fn row(model: &Value) -> [String; 6] {
    let text = |name: &str| model[name].as_str().unwrap_or("-").to_owned();
    let size = model["size_bytes"]
        .as_u64()
        .map_or_else(|| "-".to_owned(), print::bytes);
    let languages = match model["languages"].as_array() {
        Some(languages) => languages
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(","),
        None => "many".to_owned(),
    };
    [
        text("id"),
        text("status"),
        text("stage"),
        text("engine_id"),
        size,
        languages,
    ]
}

async fn pull(
    store: &ModelStore,
    options: &Pull,
    config: &Config,
    quiet: bool,
) -> anyhow::Result<()> {
    let hub = HubSettings {
        endpoint: config.hf_endpoint.clone(),
        token: config.hf_token.clone(),
        offline: config.offline,
        precision: options.precision.as_deref().map(|precision| {
            if precision == "float" {
                Precision::Float
            } else {
                Precision::Int8
            }
        }),
        revision: options.revision.clone(),
        force: options.force,
        ..HubSettings::default()
    };
    let (transfer, bar) = transfer(quiet)?;
    let pulled = store.pull(&options.id, &hub, &transfer).await;
    bar.finish_and_clear();
    let pulled = pulled?;
    print::line(format!(
        "{} is here ({}).",
        pulled.id(),
        print::bytes(pulled.size_bytes())
    ));
    Ok(())
}

/// A transfer that shows its progress and that Ctrl-C ends in good order: what has arrived is kept.
fn transfer(quiet: bool) -> anyhow::Result<(Transfer, ProgressBar)> {
    let bar = bar(quiet);
    let cancel = CancellationToken::new();
    stop::on_signals(&cancel)?;
    let shown = bar.clone();
    let progress: Arc<dyn Fn(TransferProgress) + Send + Sync> = Arc::new(move |step| {
        shown.set_length(step.total_bytes);
        shown.set_position(step.done_bytes);
        shown.set_message(step.file);
    });
    Ok((
        Transfer {
            progress: Some(progress),
            cancel,
        },
        bar,
    ))
}

fn bar(quiet: bool) -> ProgressBar {
    let target = if quiet {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let style =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, target).with_style(style)
}

async fn on_server(command: Models, client: &Client, quiet: bool) -> anyhow::Result<()> {
    match command {
        Models::List(options) => {
            let query: Vec<(&str, String)> = options
                .engine_id
                .iter()
                .map(|engine| ("engine_id", engine.clone()))
                .collect();
            let answer = client.get(&["v1", "models"], &query).await?;
            let models = answer["data"].as_array().cloned().unwrap_or_default();
            let listed = |model: &Value| {
                options.catalogue || options.id.is_some() || model["status"] != "not_downloaded"
            };
            let wanted = |model: &Value| {
                listed(model)
                    && options
                        .id
                        .as_ref()
                        .is_none_or(|id| model["id"] == id.as_str())
            };
            show(
                &models.into_iter().filter(wanted).collect::<Vec<_>>(),
                &options,
            )
        }
        Models::Pull(options) => pull_on_server(client, &options, quiet).await,
        Models::Import(_) => bail!(
            "a folder is imported on the machine that runs the worker: run `dalston models import` there, without --server"
        ),
        Models::Rm(options) => {
            let path = ["v1", "models", &options.id];
            let query = [("purge", options.purge.to_string())];
            let answer = client.delete(&path, &query).await?;
            print::line(answer["message"].as_str().unwrap_or("Removed."));
            Ok(())
        }
    }
}

async fn pull_on_server(client: &Client, options: &Pull, quiet: bool) -> anyhow::Result<()> {
    let path = ["v1", "models", &options.id];
    client
        .post(
            &["v1", "models", &options.id, "pull"],
            &json!({ "force": options.force }),
        )
        .await?;
    let bar = bar(quiet);
    loop {
        let model = client.get(&path, &[]).await?;
        match model["status"].as_str() {
            Some("ready") => break,
            Some("failed") => {
                bar.finish_and_clear();
                bail!(
                    "{}: {}",
                    options.id,
                    model
                        .pointer("/metadata/error")
                        .and_then(Value::as_str)
                        .unwrap_or("the pull failed")
                );
            }
            _ => {
                if let Some(total) = model["expected_total_bytes"].as_u64() {
                    bar.set_length(total);
                }
                bar.set_position(model["downloaded_bytes"].as_u64().unwrap_or(0));
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    bar.finish_and_clear();
    print::line(format!("{} is ready.", options.id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_the_catalogue_has_a_row() {
        for entry in catalogue::entries() {
            let [id, status, ..] = row(&pullable(entry));
            assert_eq!(
                (id.as_str(), status.as_str()),
                (entry.id.as_str(), "not_downloaded")
            );
        }
    }

    #[test]
    fn a_model_without_a_list_of_languages_knows_many() {
        let [.., size, languages] =
            row(&json!({"id": "a", "size_bytes": 7_200_000, "languages": null}));
        assert_eq!((size.as_str(), languages.as_str()), ("7.2 MB", "many"));
        let [.., languages] = row(&json!({"languages": ["en", "de"]}));
        assert_eq!(languages, "en,de");
    }
}
