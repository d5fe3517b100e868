//! `GET /v1/jobs/stats`: counts of the caller's jobs.

use dalston_schema::db::jobs;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use crate::auth::{Caller, Permission};
use crate::document::Tag;
use crate::error::ApiError;
use crate::state::App;

/// Counts; days are UTC days.
#[derive(Object)]
#[oai(rename = "JobStats")]
pub struct StatsObject {
    /// Jobs being worked on or cancelled.
    running: i64,
    /// Jobs that wait.
    queued: i64,
    /// Jobs completed since midnight.
    completed_today: i64,
    /// Jobs failed since midnight.
    failed_today: i64,
}

/// The endpoint of counts.
pub struct StatsApi(pub App);

#[OpenApi(tag = "Tag::Transcriptions")]
impl StatsApi {
    /// Count jobs by state.
    #[oai(path = "/v1/jobs/stats", method = "get")]
    async fn stats(&self, caller: Caller) -> Result<Json<StatsObject>, ApiError> {
        caller.require(Permission::JobRead)?;
        let stats = jobs::stats(&self.0.pool, caller.scope()).await?;
        Ok(Json(StatsObject {
            running: stats.running,
            queued: stats.queued,
            completed_today: stats.completed_today,
            failed_today: stats.failed_today,
        }))
    }
}
