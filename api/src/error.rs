//! Error answers. Clients depend on which of four body shapes they get: our own, OpenAI's, the permission layer's and
//! the validation list; [`ApiError`] holds the finished answer and is built by the shape's constructor.

mod foreign;
mod framework;
mod openai;

use poem::error::ResponseError;
use poem::http::{HeaderName, HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::registry::{
    MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use serde_json::{Value, json};

pub use framework::from_framework;

/// An error answer: status, body and headers, ready to send.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{status}: {body}")]
pub struct ApiError {
    status: StatusCode,
    body: Value,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// One refused value in a validation error.
#[derive(Debug, Clone, PartialEq)]
pub struct InvalidValue {
    /// `path`, `query`, `body` or `header`.
    pub place: &'static str,
    /// Name of the parameter or field.
    pub name: String,
    /// What is wrong with it and what would be right.
    pub message: String,
    /// What was sent.
    pub input: Value,
}

impl ApiError {
    /// Our standard shape: `{"error":{"code","message"}}`, the code taken from the status.
    #[must_use]
    pub fn standard(status: StatusCode, message: impl Into<String>) -> Self {
        Self::structured(status, Value::String(message.into()))
    }

    /// The standard shape with an object as message: `{"code","message",…}`.
    #[must_use]
    pub fn structured(status: StatusCode, message: Value) -> Self {
        Self {
            status,
            body: json!({"error": {"code": standard_code(status), "message": message}}),
            headers: Vec::new(),
        }
    }

    /// 400 in the standard shape.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::standard(StatusCode::BAD_REQUEST, message)
    }

    /// 404 in the standard shape.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::standard(StatusCode::NOT_FOUND, message)
    }

    /// 409 in the standard shape.
    #[must_use]
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::standard(StatusCode::CONFLICT, message)
    }

    /// The permission layer's 403.
    #[must_use]
    pub fn missing_permission(permission: &str) -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            body: json!({
                "detail": format!("Missing required permission: {permission}"),
                "code": "authorization_failed",
                "required_permission": permission,
            }),
            headers: Vec::new(),
        }
    }

    /// The permission layer's 404, which is also the answer for what belongs to somebody else.
    #[must_use]
    pub fn resource_not_found(kind: &str, id: impl std::fmt::Display) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            body: json!({
                "detail": format!("{kind} not found: {id}"),
                "code": "resource_not_found",
                "resource_type": kind,
            }),
            headers: Vec::new(),
        }
    }

    /// 422 with a list of refused values.
    #[must_use]
    pub fn invalid(values: Vec<InvalidValue>) -> Self {
        let detail: Vec<Value> = values
            .into_iter()
            .map(|value| {
                let loc = if value.name.is_empty() {
                    json!([value.place])
                } else {
                    json!([value.place, value.name])
                };
                json!({"type": "value_error", "loc": loc, "msg": value.message, "input": value.input})
            })
            .collect();
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            body: json!({ "detail": detail }),
            headers: Vec::new(),
        }
    }

    /// 422 for one form field.
    #[must_use]
    pub fn invalid_field(name: &str, message: impl Into<String>, input: &str) -> Self {
        Self::invalid_text("body", name, message, input)
    }

    /// 422 for one parameter of a query.
    #[must_use]
    pub fn invalid_query(name: &str, message: impl Into<String>, input: &str) -> Self {
        Self::invalid_text("query", name, message, input)
    }

    fn invalid_text(
        place: &'static str,
        name: &str,
        message: impl Into<String>,
        input: &str,
    ) -> Self {
        Self::invalid(vec![InvalidValue {
            place,
            name: name.to_owned(),
            message: message.into(),
            input: Value::String(input.to_owned()),
        }])
    }

    /// The bare `{"detail":…}` of an unknown route or method.
    #[must_use]
    pub fn detail(status: StatusCode, detail: &str) -> Self {
        Self {
            status,
            body: json!({ "detail": detail }),
            headers: Vec::new(),
        }
    }

    /// 401 with the challenge header.
    #[must_use]
    pub fn unauthorized(message: &str) -> Self {
        Self::standard(StatusCode::UNAUTHORIZED, message).challenge()
    }

    /// 500: says nothing to the client and everything to the log.
    #[must_use]
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut causes = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push_str(": ");
            causes.push_str(&cause.to_string());
            source = cause.source();
        }
        tracing::error!(error = causes, "request failed inside the server");
        Self::standard(
            StatusCode::INTERNAL_SERVER_ERROR,
            "An internal error occurred",
        )
    }

    /// 507: the object store has no space.
    #[must_use]
    pub fn storage_full() -> Self {
        Self::standard(
            StatusCode::INSUFFICIENT_STORAGE,
            "Storage is full. Free space on the object store or delete old jobs, then try again.",
        )
    }

    /// Adds `WWW-Authenticate: Bearer`.
    #[must_use]
    pub fn challenge(self) -> Self {
        self.with_header(
            header::WWW_AUTHENTICATE,
            &HeaderValue::from_static("Bearer"),
        )
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &HeaderValue) -> Self {
        self.headers.push((name, value.clone()));
        self
    }

    /// The status.
    #[must_use]
    pub fn status_code(&self) -> StatusCode {
        self.status
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// The message for people, whichever shape the body has.
    #[must_use]
    pub fn message(&self) -> String {
        let candidates = [
            &self.body["error"]["message"],
            &self.body["error"]["message"]["message"],
            &self.body["detail"],
            &self.body["detail"][0]["msg"],
        ];
        candidates
            .into_iter()
            .find_map(Value::as_str)
            .unwrap_or_else(|| self.status.canonical_reason().unwrap_or("error"))
            .to_owned()
    }

    /// The answer.
    #[must_use]
    pub fn response(&self) -> Response {
        let mut response = poem::web::Json(&self.body)
            .with_status_of(self.status)
            .into_response();
        for (name, value) in &self.headers {
            response.headers_mut().append(name.clone(), value.clone());
        }
        response
    }
}

trait WithStatusOf: IntoResponse + Sized {
    fn with_status_of(self, status: StatusCode) -> Response {
        let mut response = self.into_response();
        response.set_status(status);
        response
    }
}

impl<T: serde::Serialize + Send> WithStatusOf for poem::web::Json<T> {}

fn standard_code(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 | 422 => "invalid_request",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        409 => "conflict",
        429 => "rate_limit_exceeded",
        500 => "internal_error",
        503 => "service_unavailable",
        507 => "storage_full",
        _ => "error",
    }
}

impl ResponseError for ApiError {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn as_response(&self) -> Response {
        self.response()
    }
}

impl poem_openapi::ApiResponse for ApiError {
    fn meta() -> MetaResponses {
        let schema = || {
            MetaSchemaRef::Inline(Box::new(MetaSchema {
                description: Some("See the description of the API for the four shapes of errors."),
                ..MetaSchema::new("object")
            }))
        };
        let range = |range: &str, description| MetaResponse {
            description,
            status: None,
            status_range: Some(range.to_owned()),
            content: vec![MetaMediaType {
                content_type: "application/json",
                schema: schema(),
            }],
            headers: Vec::new(),
        };
        MetaResponses {
            responses: vec![
                range(
                    "4XX",
                    "The request cannot be served; the message says what to change",
                ),
                range("5XX", "The server or a service behind it failed"),
            ],
        }
    }

    fn register(_registry: &mut Registry) {}
}
