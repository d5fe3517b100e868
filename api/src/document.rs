//! The OpenAPI document: its sections, and the answers that are not plain JSON.

use std::borrow::Cow;

use poem::{IntoResponse, Response};
use poem_openapi::payload::{Json, Payload};
use poem_openapi::registry::{
    MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type};
use poem_openapi::{ApiResponse, Tags};
use serde_json::Value;

use crate::native::job_object::JobCreated;

/// Sections of the document.
#[derive(Tags)]
pub enum Tag {
    /// Jobs and their transcripts.
    Transcriptions,
    /// What clients of OpenAI call.
    #[oai(rename = "OpenAI")]
    OpenAi,
    /// Models and engines.
    Models,
    /// API keys.
    Keys,
    /// Health and status.
    System,
}

/// What stands on top of the document.
pub const DESCRIPTION: &str = "Speech to text on your own machines.

Send an API key as `Authorization: Bearer dk_…`. Every answer carries `X-Request-ID`.

Errors have one of four bodies: `{\"error\":{\"code\",\"message\"}}`; in the OpenAI dialect \
`{\"error\":{\"message\",\"type\",\"param\",\"code\"}}`; for missing permissions `{\"detail\",\"code\",…}`; for values \
of a wrong type or range 422 with `{\"detail\":[{\"loc\",\"msg\",…}]}`.";

/// The answer to a submit: the job, or in the OpenAI dialect its text.
pub struct Submitted(Response);

impl Submitted {
    /// 201 with the job.
    #[must_use]
    pub fn created(job: JobCreated) -> Self {
        let mut response = Json(job).into_response();
        response.set_status(poem::http::StatusCode::CREATED);
        Self(response)
    }

    /// 200 in the OpenAI dialect.
    #[must_use]
    pub fn answered(response: Response) -> Self {
        Self(response)
    }
}

impl IntoResponse for Submitted {
    fn into_response(self) -> Response {
        self.0
    }
}

impl ApiResponse for Submitted {
    fn meta() -> MetaResponses {
        let created = MetaResponse {
            description: "The job (native dialect)",
            status: Some(201),
            status_range: None,
            content: vec![MetaMediaType {
                content_type: Json::<JobCreated>::CONTENT_TYPE,
                schema: JobCreated::schema_ref(),
            }],
            headers: Vec::new(),
        };
        let mut responses = OpenAiAnswer::meta().responses;
        responses.insert(0, created);
        MetaResponses { responses }
    }

    fn register(registry: &mut Registry) {
        JobCreated::register(registry);
    }
}

/// The text in one of OpenAI's formats.
pub struct OpenAiAnswer(pub Response);

impl IntoResponse for OpenAiAnswer {
    fn into_response(self) -> Response {
        self.0
    }
}

impl ApiResponse for OpenAiAnswer {
    fn meta() -> MetaResponses {
        raw(
            "The text in the asked format (OpenAI dialect)",
            &[
                ("application/json", "object"),
                ("text/plain", "string"),
                ("text/vtt", "string"),
                ("text/event-stream", "string"),
            ],
        )
    }

    fn register(_registry: &mut Registry) {}
}

/// A file: an export or audio.
pub struct File(pub Response);

impl IntoResponse for File {
    fn into_response(self) -> Response {
        self.0
    }
}

impl ApiResponse for File {
    fn meta() -> MetaResponses {
        raw(
            "The file",
            &[
                ("text/plain", "string"),
                ("text/vtt", "string"),
                ("application/json", "object"),
                ("audio/*", "string"),
            ],
        )
    }

    fn register(_registry: &mut Registry) {}
}

/// Server-sent events.
pub struct Events(pub Response);

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        self.0
    }
}

impl ApiResponse for Events {
    fn meta() -> MetaResponses {
        raw("Server-sent events", &[("text/event-stream", "string")])
    }

    fn register(_registry: &mut Registry) {}
}

fn raw(description: &'static str, types: &[(&'static str, &'static str)]) -> MetaResponses {
    let content = types
        .iter()
        .map(|(content_type, ty)| MetaMediaType {
            content_type,
            schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new(ty))),
        })
        .collect();
    MetaResponses {
        responses: vec![MetaResponse {
            description,
            status: Some(200),
            status_range: None,
            content,
            headers: Vec::new(),
        }],
    }
}

/// A file in the schema of a form.
#[derive(Debug)]
pub struct FileSchema;

impl Type for FileSchema {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "string_binary".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "binary")))
    }

    fn as_raw_value(&self) -> Option<&Self::RawValueType> {
        Some(self)
    }

    fn raw_element_iter<'a>(
        &'a self,
    ) -> Box<dyn Iterator<Item = &'a Self::RawElementValueType> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ParseFromJSON for FileSchema {
    fn parse_from_json(_value: Option<Value>) -> ParseResult<Self> {
        Err(ParseError::custom("a file is no JSON value"))
    }
}

impl ToJSON for FileSchema {
    fn to_json(&self) -> Option<Value> {
        None
    }
}

/// A JSON object without a fixed shape.
pub type FreeObject = poem_openapi::types::Any<Value>;
