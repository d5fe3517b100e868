//! The HTTP surface of Dalston: the native and the OpenAI-compatible dialect, events, exports, keys, health and metrics.
//!
//! [`run`] serves until it is told to stop; [`app`] is the same surface without a socket. Nothing here runs a model:
//! the API stores audio, plans tasks and reads what workers wrote.

mod auth;
mod body;
pub mod config;
mod document;
mod error;
mod events;
pub mod export;
mod form;
mod health;
pub mod ingest;
mod intake;
mod language;
mod live_text;
mod metrics;
mod native;
mod openai;
mod plan;
mod routes;
mod speakers;
mod state;
mod submit;
mod surface;
mod timestamp;
mod unserved;
mod wait;

use std::net::TcpListener;
use std::time::Duration;

use anyhow::Context;
use poem::Server;
use poem::listener::TcpAcceptor;
use tokio_util::sync::CancellationToken;

pub use config::{ApiConfig, Limits, SecurityMode, UrlIngest, WhenMissing};
pub use routes::routes as app;
pub use state::App;

/// Time between two foldings of collected metrics.
const METRICS_UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Serves the API until `shutdown` is cancelled, then finishes the requests in flight.
///
/// # Errors
/// When the configuration cannot work or the address is taken.
pub async fn run(config: ApiConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let bind = config.bind;
    let listener =
        TcpListener::bind(bind).with_context(|| format!("listening on http://{bind}"))?;
    serve(&App::open(config)?, listener, shutdown).await
}

/// Serves `app` on a socket that is open already; else as [`run`].
///
/// # Errors
/// When the socket cannot be used.
pub async fn serve(
    app: &App,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if app.config.metrics {
        metrics::install();
    }
    let bind = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let acceptor = TcpAcceptor::from_std(listener)?;
    let upkeep = tokio::spawn(async {
        loop {
            tokio::time::sleep(METRICS_UPKEEP_EVERY).await;
            metrics::upkeep();
        }
    });
    let unserved = tokio::spawn(unserved::watch(app.clone()));
    let stopping = app.stopping.clone();
    let stop = async move {
        shutdown.cancelled().await;
        // Streams and waits would otherwise last as long as their jobs.
        stopping.cancel();
    };
    tracing::info!(address = %bind, "API listens on http://{bind}");
    let served = Server::new_with_acceptor(acceptor)
        .run_with_graceful_shutdown(routes::routes(app), stop, Some(app.config.shutdown_grace))
        .await
        .with_context(|| format!("serving the API on {bind}"));
    upkeep.abort();
    unserved.abort();
    served
}
