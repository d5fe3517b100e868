//! Asking a running command to stop: SIGINT (Ctrl-C), SIGTERM and SIGHUP begin an orderly stop; a second one ends it at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after an impatient second signal.
const IMPATIENT: i32 = 130;

/// Cancels `shutdown` at the first signal.
///
/// # Errors
/// When the operating system refuses the handlers.
pub fn on_signals(shutdown: &CancellationToken) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                _ = hang_up.recv() => "SIGHUP",
            };
            if shutdown.is_cancelled() {
                tracing::warn!(signal = name, "Stopping at once");
                std::process::exit(IMPATIENT);
            }
            tracing::info!(signal = name, "Stopping; once more stops at once");
            shutdown.cancel();
        }
    });
    Ok(())
}
