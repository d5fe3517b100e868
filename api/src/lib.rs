//! The HTTP surface of Dalston: the native and the OpenAI-compatible dialect, events, exports, keys, health and metrics.
//!
//! [`run`] serves until it is told to stop; [`app`] is the same surface without a socket. Nothing here runs a model:
//! the API stores audio, plans tasks and reads what workers wrote.

mod auth;
pub mod config;
mod document;
mod error;
mod events;
pub mod export;
mod form;
mod health;
pub mod ingest;
mod intake;
mod metrics;
mod native;
mod openai;
mod plan;
mod routes;
mod state;
mod submit;
mod surface;
mod timestamp;
mod wait;

use std::time::Duration;

use anyhow::Context;
use poem::Server;
use poem::listener::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::{ApiConfig, Limits, SecurityMode, UrlIngest};
pub use routes::routes as app;
pub use state::App;

/// Time between two foldings of collected metrics.
const METRICS_UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Serves the API until `shutdown` is cancelled, then finishes the requests in flight.
///
/// # Errors
/// When the configuration cannot work or the address is taken.
pub async fn run(config: ApiConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    if config.metrics {
        metrics::install();
    }
    let (bind, grace) = (config.bind, config.shutdown_grace);
    let app = App::open(config)?;
    let listener = TcpListener::bind(bind);
    let upkeep = tokio::spawn(async {
        loop {
            tokio::time::sleep(METRICS_UPKEEP_EVERY).await;
            metrics::upkeep();
        }
    });
    tracing::info!(address = %bind, "API listens on http://{bind}");
    let served = Server::new(listener)
        .run_with_graceful_shutdown(
            routes::routes(&app),
            shutdown.cancelled_owned(),
            Some(grace),
        )
        .await
        .with_context(|| format!("serving the API on {bind}"));
    upkeep.abort();
    served
}
