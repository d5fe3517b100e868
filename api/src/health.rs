//! Health and status: what a load balancer asks, and what a person asks.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use dalston_schema::db::{queue, workers};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use tokio::sync::Mutex;

use crate::auth::{Caller, Permission};
use crate::document::Tag;
use crate::error::ApiError;
use crate::state::App;

/// How long a part may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a result is given out again, so that many askers cost no more than one.
const BELIEVED_FOR: Duration = Duration::from_secs(1);

/// The last check.
#[derive(Default)]
pub struct LastCheck(Mutex<Option<(Instant, Check)>>);

/// What a check found; `None` is well.
#[derive(Clone, Debug, Default)]
pub struct Check {
    database: Option<String>,
    storage: Option<String>,
}

impl Check {
    fn is_well(&self) -> bool {
        self.database.is_none() && self.storage.is_none()
    }
}

/// All is well.
#[derive(Object)]
pub struct Healthy {
    /// `healthy`
    status: String,
}

/// Something does not work.
#[derive(Object)]
pub struct Unhealthy {
    /// `unhealthy`
    status: String,
    /// What is wrong with the database; null if nothing.
    database: Option<String>,
    /// What is wrong with the object store; null if nothing.
    storage: Option<String>,
}

/// The answer to a health check.
#[derive(ApiResponse)]
pub enum Health {
    /// Database and object store work.
    #[oai(status = 200)]
    Healthy(Json<Healthy>),
    /// Database or object store do not.
    #[oai(status = 503)]
    Unhealthy(Json<Unhealthy>),
}

/// The name of the service.
#[derive(Object)]
pub struct Service {
    /// `Dalston`
    name: String,
    /// Version of the program.
    version: String,
    /// Where the documentation is.
    docs: String,
}

/// A part of the system.
#[derive(Object)]
pub struct Part {
    /// `ok` or `failing`.
    status: String,
    /// What is wrong.
    error: Option<String>,
}

/// Tasks of one kind.
#[derive(Object)]
pub struct QueueObject {
    /// Stage.
    stage: String,
    /// Engine; null for a stage without models.
    engine_id: Option<String>,
    /// Model; null for a stage without models.
    model: Option<String>,
    /// Tasks that wait.
    waiting: i64,
    /// Tasks being run.
    running: i64,
    /// Seconds the oldest has waited.
    oldest_wait_seconds: Option<f64>,
    /// Workers that can run them.
    workers: i64,
}

/// How the whole is doing.
#[derive(Object)]
#[oai(rename = "SystemStatus")]
pub struct StatusObject {
    /// `ok`, `degraded` (nobody works) or `failing`.
    status: String,
    /// Version of this program.
    version: String,
    /// The database.
    database: Part,
    /// The object store.
    storage: Part,
    /// Workers by state: `live`, `draining`, `silent`.
    workers: HashMap<String, i64>,
    /// Tasks by kind.
    queues: Vec<QueueObject>,
}

/// The system endpoints.
pub struct SystemApi(pub App);

#[OpenApi(tag = "Tag::System")]
impl SystemApi {
    /// What this is.
    #[oai(path = "/", method = "get")]
    async fn root(&self) -> Json<Service> {
        Json(Service {
            name: "Dalston".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            docs: "/docs".to_owned(),
        })
    }

    /// Whether the service can do its work.
    #[oai(path = "/health", method = "get")]
    async fn health(&self) -> Health {
        let check = check(&self.0).await;
        if check.is_well() {
            return Health::Healthy(Json(Healthy {
                status: "healthy".to_owned(),
            }));
        }
        Health::Unhealthy(Json(Unhealthy {
            status: "unhealthy".to_owned(),
            database: check.database,
            storage: check.storage,
        }))
    }

    /// How the whole is doing.
    #[oai(path = "/v1/system/status", method = "get")]
    async fn status(&self, caller: Caller) -> Result<Json<StatusObject>, ApiError> {
        caller.require(Permission::SessionRead)?;
        let check = check(&self.0).await;
        let mut counted = HashMap::new();
        for worker in workers::list(&self.0.pool).await? {
            *counted.entry(worker.status).or_default() += 1;
        }
        let queues = queue::depths(&self.0.pool).await?;
        let works = counted.get("live").is_some_and(|live| *live > 0);
        let status = match (check.is_well(), works) {
            (false, _) => "failing",
            (true, false) => "degraded",
            (true, true) => "ok",
        };
        Ok(Json(StatusObject {
            status: status.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            database: part(check.database),
            storage: part(check.storage),
            workers: counted,
            queues: queues
                .into_iter()
                .map(|depth| QueueObject {
                    stage: depth.stage,
                    engine_id: Some(depth.engine).filter(|engine| !engine.is_empty()),
                    model: Some(depth.model).filter(|model| !model.is_empty()),
                    waiting: depth.ready + depth.scheduled + depth.held,
                    running: depth.running,
                    oldest_wait_seconds: depth.oldest_wait_seconds,
                    workers: depth.workers,
                })
                .collect(),
        }))
    }
}

fn part(error: Option<String>) -> Part {
    Part {
        status: if error.is_none() { "ok" } else { "failing" }.to_owned(),
        error,
    }
}

async fn check(app: &App) -> Check {
    let mut last = app.last_check.0.lock().await;
    if let Some((at, check)) = &*last
        && at.elapsed() < BELIEVED_FOR
    {
        return check.clone();
    }
    let (database, storage) = tokio::join!(
        judge("database", queue::ping(&app.pool)),
        judge("object store", app.storage.check()),
    );
    let check = Check { database, storage };
    *last = Some((Instant::now(), check.clone()));
    check
}

/// What is wrong, in words for outsiders; the log has the rest.
async fn judge<E: std::error::Error>(
    part: &str,
    answer: impl Future<Output = Result<(), E>>,
) -> Option<String> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the {part} failed its health check");
            Some(format!("the {part} answered with an error"))
        }
        Err(_) => {
            tracing::warn!("the {part} did not answer its health check in time");
            Some(format!("the {part} did not answer in time"))
        }
    }
}
