//! Every route of the API on one page.

use poem::{Endpoint, EndpointExt, IntoEndpoint, Route, get};
use poem_openapi::OpenApiService;

use crate::events::EventsApi;
use crate::health::SystemApi;
use crate::native::audio::AudioApi;
use crate::native::engines::EnginesApi;
use crate::native::export::ExportApi;
use crate::native::hub::HubApi;
use crate::native::keys::KeysApi;
use crate::native::models::ModelsApi;
use crate::native::stats::StatsApi;
use crate::native::tasks::TasksApi;
use crate::native::transcriptions::TranscriptionsApi;
use crate::openai::translations::TranslationsApi;
use crate::state::App;
use crate::{document, metrics, surface};

/// Everything that is in the OpenAPI document.
type Apis = (
    // POST                     /v1/audio/transcriptions                    (native and OpenAI)
    // GET                      /v1/audio/transcriptions
    // GET · PATCH · DELETE     /v1/audio/transcriptions/{job_id}
    // POST                     /v1/audio/transcriptions/{job_id}/cancel · /retry
    TranscriptionsApi,
    // GET · DELETE             /v1/audio/transcriptions/{job_id}/audio
    // GET                      /v1/audio/transcriptions/{job_id}/audio/redacted · /audio/content
    AudioApi,
    // GET                      /v1/audio/transcriptions/{job_id}/events
    EventsApi,
    // GET                      /v1/audio/transcriptions/{job_id}/export/{format}
    ExportApi,
    // GET                      /v1/audio/transcriptions/{job_id}/tasks · /tasks/{task_id}/artifacts
    // POST                     /v1/audio/transcriptions/{job_id}/tasks/{task_id}/retry
    TasksApi,
    // GET                      /v1/jobs/stats
    StatsApi,
    // POST                     /v1/audio/translations                      (OpenAI)
    TranslationsApi,
    // POST · GET               /v1/models/hf/resolve · /v1/models/hf/mappings
    HubApi,
    // GET                      /v1/models · /v1/models/{id}                (native and OpenAI)
    // PATCH · DELETE · POST    /v1/models/{id} · /v1/models/{id}/pull · /v1/models/sync
    ModelsApi,
    // GET                      /v1/engines · /v1/engines/capabilities
    EnginesApi,
    // GET · POST               /auth/keys
    // GET · DELETE             /auth/keys/{key_id}
    // GET                      /auth/me
    KeysApi,
    // GET                      / · /health · /v1/system/status
    SystemApi,
);

/// The documented part of the API.
#[must_use]
pub fn service(app: &App) -> OpenApiService<Apis, ()> {
    let apis = (
        TranscriptionsApi(app.clone()),
        AudioApi(app.clone()),
        EventsApi(app.clone()),
        ExportApi(app.clone()),
        TasksApi(app.clone()),
        StatsApi(app.clone()),
        TranslationsApi(app.clone()),
        HubApi(app.clone()),
        ModelsApi(app.clone()),
        EnginesApi(app.clone()),
        KeysApi(app.clone()),
        SystemApi(app.clone()),
    );
    OpenApiService::new(apis, "Dalston", env!("CARGO_PKG_VERSION"))
        .description(document::DESCRIPTION)
}

/// The whole HTTP surface.
pub fn routes(app: &App) -> impl Endpoint + use<> {
    let service = service(app);
    let documents = Route::new()
        .nest("/docs", service.swagger_ui())
        .nest("/redoc", service.scalar())
        .at("/openapi.json", service.spec_endpoint())
        .at("/metrics", get(metrics::endpoint));
    documents
        .nest_no_strip("/", service)
        .data(app.clone())
        .into_endpoint()
        .around(|routes, request| async move { Ok(surface::answer(&routes, request).await) })
}
