//! Ends tasks that have waited too long for a worker with their model, where jobs may wait for one. The API does it,
//! because there may be no worker at all.

use std::time::Duration;

use dalston_schema::db::maintenance;

use crate::config::WhenMissing;
use crate::state::App;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Tasks ended in one look.
const AT_A_TIME: i32 = 100;

/// Looks until it is dropped; ends at once where jobs never wait.
pub async fn watch(app: App) {
    if app.config.when_missing != WhenMissing::Wait {
        return;
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let wait = app.config.unserved_wait;
        match maintenance::fail_unserved_tasks(&app.pool, wait, AT_A_TIME).await {
            Ok(0) => {}
            Ok(failed) => tracing::warn!(
                "{failed} task(s) failed: no worker has had their model for {} s",
                wait.as_secs()
            ),
            Err(error) => tracing::debug!(%error, "unserved tasks could not be looked for"),
        }
    }
}
