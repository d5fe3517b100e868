//! Tasks whose model no worker has, where jobs may wait for one: the model is pulled if the catalogue knows it, and tasks
//! that have waited too long are ended. The API does both, because there may be no worker at all.

use std::time::Duration;

use dalston_schema::catalogue;
use dalston_schema::db::audit::{self, NewAuditEvent};
use dalston_schema::db::{DbError, maintenance, models};
use serde_json::json;

use crate::config::WhenMissing;
use crate::state::App;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Tasks ended in one look.
const AT_A_TIME: i32 = 100;
/// Time between the end of a pull and the next for the same tasks. A pull has tried several times before it fails.
const PULL_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Looks until it is dropped; ends at once where jobs never wait.
pub async fn watch(app: App) {
    if app.config.when_missing != WhenMissing::Wait {
        return;
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if app.config.pull_needed
            && let Err(error) = pull_needed(&app).await
        {
            tracing::debug!(%error, "needed models could not be looked for");
        }
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

/// Has the models pulled that tasks wait for. Only those of the catalogue: who may submit a job may not thereby have any
/// repository fetched.
async fn pull_needed(app: &App) -> Result<(), DbError> {
    for id in models::needed(&app.pool).await? {
        let Some(entry) = catalogue::entry(&id).filter(|entry| !entry.bundled) else {
            continue;
        };
        if models::pull_needed(&app.pool, entry, PULL_AGAIN_AFTER).await? {
            tracing::info!(
                model = id,
                "jobs wait for {id}; a worker is asked to pull it"
            );
            let event = NewAuditEvent::by_the_system(
                "api".to_owned(),
                "model.pull_requested",
                ("model", &id),
                json!({ "needed_by": "waiting jobs" }),
            );
            audit::append(&app.pool, &event).await?;
        }
    }
    Ok(())
}
