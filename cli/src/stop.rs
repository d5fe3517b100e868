//! Asking a running command to stop: SIGINT (Ctrl-C), SIGTERM and SIGHUP begin an orderly stop; one more, a second or more
//! later, ends it at once. What comes sooner belongs to the first: make and timeout(1) pass on a signal that the terminal
//! or the group has delivered already.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Exit code after an impatient second signal.
const IMPATIENT: i32 = 130;
/// Signals within this time are one request.
const ONE_REQUEST: Duration = Duration::from_secs(1);

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
        let mut asked: Option<Instant> = None;
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                _ = hang_up.recv() => "SIGHUP",
            };
            match asked {
                None => {
                    tracing::info!(signal = name, "Stopping; once more stops at once");
                    asked = Some(Instant::now());
                    shutdown.cancel();
                }
                Some(first) if first.elapsed() < ONE_REQUEST => {}
                Some(_) => {
                    tracing::warn!(signal = name, "Stopping at once");
                    std::process::exit(IMPATIENT);
                }
            }
        }
    });
    Ok(())
}
