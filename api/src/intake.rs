//! From a form to a job: which dialect it speaks, its fields, its audio, its facts, and the submit. Each dialect gets
//! errors in its own shape.
//!
//! The work runs as a task of its own, so that a client that goes away never leaves half of it: either the audio is
//! deleted again or the job exists.

use chrono::Utc;
use dalston_schema::JobId;
use dalston_schema::db::jobs::Submitted;
use dalston_schema::job::{JobParameters, SpeakerDetection, UploadedAudio};
use poem::Request;
use poem::http::StatusCode;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::form::{Fields, Form};
use crate::ingest::{IngestError, Received, tracks, upload, url, voices};
use crate::native::request as native;
use crate::native::tracks::{self as track_fields, TrackField};
use crate::openai::dialect;
use crate::openai::request::{self as openai, Endpoint, OpenAiRequest};
use crate::speakers::{self, Clip};
use crate::state::App;
use crate::submit::{Idempotency, Order, SubmitError, submit};

/// Longest display name, in characters.
const NAME_CHARACTERS: usize = 255;

/// A request before its body has been read.
pub struct Call {
    caller: Caller,
    endpoint: Endpoint,
    openai_client: bool,
    idempotency_key: Option<String>,
}

impl Call {
    /// Takes from the head of a request what the body does not say.
    ///
    /// # Errors
    /// 400 for an unusable `Idempotency-Key`.
    pub fn of(caller: Caller, request: &Request, endpoint: Endpoint) -> Result<Self, ApiError> {
        Ok(Self {
            caller,
            endpoint,
            openai_client: dialect::is_openai_client(request),
            idempotency_key: Idempotency::key(request.header("idempotency-key"))?,
        })
    }

    fn speaks_openai(&self, fields: &Fields) -> bool {
        self.endpoint == Endpoint::Translations
            || dialect::speaks_openai(fields, self.openai_client)
    }
}

/// A job that exists now.
pub enum Accepted {
    /// The caller wants to know the job.
    Native(Submitted),
    /// The caller wants its text.
    OpenAi {
        /// The job.
        job: JobId,
        /// What it is to be answered with.
        request: Box<OpenAiRequest>,
    },
}

/// Reads a form to its end and submits its job.
///
/// # Errors
/// In the shape of the dialect the form speaks; no audio is left then.
pub async fn take_in<D: 'static>(
    app: &App,
    call: Call,
    form: Form<D>,
) -> Result<Accepted, ApiError> {
    let app = app.clone();
    let taking = tokio::spawn(async move {
        let mut fields = Fields::default();
        let taken = take(&app, &call, form, &mut fields).await;
        taken.map_err(|error| {
            if call.speaks_openai(&fields) {
                error.into_openai()
            } else {
                error
            }
        })
    });
    match taking.await {
        Ok(taken) => taken,
        Err(error) => Err(ApiError::internal(&error)),
    }
}

async fn take<D>(
    app: &App,
    call: &Call,
    form: Form<D>,
    fields: &mut Fields,
) -> Result<Accepted, ApiError> {
    let limits = app.config.limits;
    let limit = |fields: &Fields| {
        if call.speaks_openai(fields) {
            limits.openai_upload_bytes
        } else {
            limits.upload_bytes
        }
    };
    let fingerprint = call.idempotency_key.is_some();
    let read = upload::read_form(app, form, fields, limit, fingerprint).await;
    let speaks_openai = call.speaks_openai(fields);
    let shape = |error: IngestError| {
        if speaks_openai {
            error.into_openai()
        } else {
            error.into_standard()
        }
    };
    let file = read.map_err(shape)?;
    // Dropping the received file deletes it, so every early return below leaves nothing behind.
    let (request, mut order) = if speaks_openai {
        let request = openai::read(call.endpoint, fields)?;
        let parameters = request.parameters.clone();
        let order = Order {
            parameters,
            display_name: String::new(),
            retention_days: app.config.default_retention_days,
            idempotency: None,
        };
        (Some(request), order)
    } else {
        (
            None,
            native::read(fields, app.config.default_retention_days)?,
        )
    };
    let clips = speakers::clips(fields, &order.parameters.known_speaker_names)
        .map_err(|error| shape(error.into()))?;
    let described = match &request {
        Some(_) => Vec::new(),
        None => track_fields::read(fields)?,
    };
    let received = match (file, fields.text("audio_url")) {
        (Some(file), None) if file.further.is_empty() || !described.is_empty() => file,
        (Some(_), None) if speaks_openai => {
            return Err(ApiError::bad_request("Send exactly one 'file'"));
        }
        (Some(_), None) => {
            return Err(ApiError::bad_request(
                "Send exactly one 'file', or describe several that are one recording in 'tracks'",
            ));
        }
        (None, Some(link)) if call.endpoint == Endpoint::Transcriptions => {
            let link = url::parse(link, app.config.url_ingest.reach)
                .map_err(|error| shape(error.into()))?;
            url::fetch(app, &link, limit(fields)).await.map_err(shape)?
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request(
                "Provide either 'file' or 'audio_url', not both",
            ));
        }
        (None, _) if speaks_openai => return Err(file_missing()),
        (None, _) => {
            return Err(ApiError::bad_request(
                "Either 'file' or 'audio_url' must be provided",
            ));
        }
    };
    let limit = limit(fields);
    let facts = inspect(
        app,
        &received,
        limit,
        &mut order.parameters,
        &described,
        clips,
    )
    .await;
    let audio = match facts {
        Ok(audio) => audio,
        Err(error) => {
            received.discard().await;
            return Err(shape(error));
        }
    };
    let order = Order {
        display_name: display_name(&order.display_name, fields, &received, request.is_some()),
        idempotency: call.idempotency_key.clone().map(|key| {
            let endpoint = match call.endpoint {
                Endpoint::Transcriptions => "transcriptions",
                Endpoint::Translations => "translations",
            };
            Idempotency::of(key, endpoint, fields, &received.origin)
        }),
        ..order
    };
    let submitted = submit(app, &call.caller, received, audio, order).await;
    match request {
        Some(request) => {
            let submitted = submitted.map_err(SubmitError::into_openai)?;
            Ok(Accepted::OpenAi {
                job: submitted.id(),
                request: Box::new(request),
            })
        }
        None => submitted
            .map(Accepted::Native)
            .map_err(SubmitError::into_standard),
    }
}

/// Judges stored audio: its size once the dialect is certain, its facts, and whether they fit what is asked. The
/// parameters get what the files tell: tracks, and recordings of speakers.
async fn inspect(
    app: &App,
    received: &Received,
    limit: u64,
    parameters: &mut JobParameters,
    described: &[TrackField],
    clips: Vec<Clip>,
) -> Result<UploadedAudio, IngestError> {
    if received.size_bytes > limit {
        return Err(IngestError::TooLarge { limit });
    }
    let mut audio = received.probe(app).await?;
    if !described.is_empty() {
        parameters.tracks = tracks::place(app, received, &mut audio, described).await?;
        parameters.speaker_detection = SpeakerDetection::PerChannel;
    } else if parameters.speaker_detection == SpeakerDetection::PerChannel && audio.channels < 2 {
        return Err(ApiError::bad_request(format!(
            "per_channel speaker detection requires stereo audio, got {} channel(s). \
             Use speaker_detection=diarize to tell voices apart.",
            audio.channels
        ))
        .into());
    }
    parameters.known_speaker_references = voices::store(app, received.job(), clips).await?;
    Ok(audio)
}

fn file_missing() -> ApiError {
    ApiError::openai(
        StatusCode::BAD_REQUEST,
        "invalid_request_error",
        Some("missing_required_parameter"),
        "File must be provided: send it as 'file' with a filename.",
        Some("file"),
    )
}

/// The given name, else that of the file or URL, else, for people, the time.
fn display_name(given: &str, fields: &Fields, received: &Received, openai: bool) -> String {
    let from_link = || fields.text("audio_url").and_then(url::display_name);
    let from_file = || received.origin.file_name.clone();
    let name = Some(given.trim())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .or_else(from_link)
        .or_else(from_file)
        .filter(|name| !name.trim().is_empty());
    let name = name.unwrap_or_else(|| {
        if openai {
            String::new()
        } else {
            format!("Untitled — {}", Utc::now().format("%b %d, %Y %H:%M"))
        }
    });
    name.trim().chars().take(NAME_CHARACTERS).collect()
}
