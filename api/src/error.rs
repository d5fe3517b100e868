//! Error answers. Clients depend on which of four body shapes they get: our own, OpenAI's, the permission layer's and
//! the validation list; [`ApiError`] holds the finished answer and is built by the shape's constructor.

use poem::error::ResponseError;
use poem::http::{HeaderName, HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::registry::{
    MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use serde_json::{Value, json};

use dalston_schema::db::DbError;
use dalston_schema::storage::StorageError;

/// An error answer: status, body and headers, ready to send.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{status}: {body}")]
pub struct ApiError {
    status: StatusCode,
    body: Value,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// One refused value in a validation error.
#[derive(Debug, Clone)]
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

    /// OpenAI's shape: `{"error":{"message","type","param","code"}}`.
    #[must_use]
    pub fn openai(
        status: StatusCode,
        kind: &str,
        code: Option<&str>,
        message: impl Into<String>,
        param: Option<&str>,
    ) -> Self {
        Self {
            status,
            body: json!({"error": {"message": message.into(), "type": kind, "param": param, "code": code}}),
            headers: Vec::new(),
        }
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
        Self::invalid(vec![InvalidValue {
            place: "body",
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

    /// The same error in OpenAI's shape; one that has it already is kept.
    #[must_use]
    pub fn into_openai(self) -> Self {
        if self.body["error"]["type"].is_string() {
            return self;
        }
        let (kind, code) = openai_kind(self.status);
        let status = match self.status {
            // OpenAI's own services answer a bad form with 400.
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        };
        let param = self.body["detail"][0]["loc"][1].as_str().map(str::to_owned);
        let code = self.body["error"]["message"]["code"]
            .as_str()
            .map_or(code, |code| Some(code.to_owned()));
        let mut error = Self::openai(
            status,
            kind,
            code.as_deref(),
            self.message(),
            param.as_deref(),
        );
        error.headers = self.headers;
        error
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

fn openai_kind(status: StatusCode) -> (&'static str, Option<String>) {
    let (kind, code) = match status.as_u16() {
        401 => ("authentication_error", Some("invalid_api_key")),
        403 => ("permission_error", Some("insufficient_permissions")),
        404 => ("invalid_request_error", Some("not_found")),
        408 => ("timeout_error", Some("timeout")),
        409 => ("invalid_request_error", Some("conflict")),
        413 => ("invalid_request_error", Some("file_too_large")),
        429 => ("rate_limit_error", Some("rate_limit_exceeded")),
        503 => ("server_error", Some("service_unavailable")),
        507 => ("server_error", Some("storage_full")),
        status if status >= 500 => ("server_error", Some("internal_error")),
        _ => ("invalid_request_error", Some("invalid_request")),
    };
    (kind, code.map(str::to_owned))
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

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::IdempotencyMismatch => Self::standard(
                StatusCode::UNPROCESSABLE_ENTITY,
                "This Idempotency-Key was used with a different request. Use a new key for a new request.",
            ),
            DbError::JobLimit { limit } => Self::standard(
                StatusCode::TOO_MANY_REQUESTS,
                format!("Concurrent job limit exceeded ({limit} max)"),
            ),
            error if error.is_transient() => {
                tracing::warn!(%error, "the database did not answer");
                Self::standard(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The database is not available at the moment. Try again shortly.",
                )
                .with_header(header::RETRY_AFTER, &HeaderValue::from_static("2"))
            }
            error => Self::internal(&error),
        }
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Full => Self::storage_full(),
            error => Self::internal(&error),
        }
    }
}

/// Turns an error of the web framework (routing, parameters, bodies) into one of our shapes.
#[must_use]
pub fn from_framework(error: &poem::Error, path: &str) -> ApiError {
    use poem_openapi::error::{
        ContentTypeError, ParseMultipartError, ParseParamError, ParsePathError,
        ParseRequestPayloadError,
    };
    let one = |place, name: &str, message: String| {
        ApiError::invalid(vec![InvalidValue {
            place,
            name: name.to_owned(),
            message,
            input: Value::Null,
        }])
    };
    if let Some(error) = error.downcast_ref::<ApiError>() {
        return error.clone();
    }
    if let Some(error) = error.downcast_ref::<ParsePathError>() {
        return one(
            "path",
            path_parameter(error.name, path),
            error.reason.clone(),
        );
    }
    if let Some(error) = error.downcast_ref::<ParseParamError>() {
        return one("query", error.name, error.reason.clone());
    }
    if let Some(error) = error.downcast_ref::<ParseRequestPayloadError>() {
        return one("body", "", error.reason.clone());
    }
    if let Some(error) = error.downcast_ref::<ParseMultipartError>() {
        return one("body", "", error.reason.clone());
    }
    if let Some(error) = error.downcast_ref::<ContentTypeError>() {
        return one("header", "content-type", error.to_string());
    }
    match error.status() {
        StatusCode::NOT_FOUND => ApiError::detail(StatusCode::NOT_FOUND, "Not Found"),
        StatusCode::METHOD_NOT_ALLOWED => {
            ApiError::detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        }
        status if status.is_client_error() => ApiError::standard(status, error.to_string()),
        status if status.is_server_error() => {
            tracing::error!(%error, "request failed inside the server");
            ApiError::standard(
                StatusCode::INTERNAL_SERVER_ERROR,
                "An internal error occurred",
            )
        }
        status => ApiError::standard(status, error.to_string()),
    }
}

/// The framework counts path parameters; clients know them by name. Only ids can fail to parse.
fn path_parameter<'a>(counted: &'a str, path: &str) -> &'a str {
    match counted {
        "param0" if path.starts_with("/auth/keys/") => "key_id",
        "param0" => "job_id",
        "param1" => "task_id",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_keeps_its_message_in_the_openai_shape() {
        let cases = [
            (
                ApiError::bad_request("no"),
                400,
                "no",
                "invalid_request_error",
            ),
            (
                ApiError::unauthorized("Invalid API key"),
                401,
                "Invalid API key",
                "authentication_error",
            ),
            (
                ApiError::missing_permission("job:create"),
                403,
                "Missing required permission: job:create",
                "permission_error",
            ),
            (
                ApiError::invalid_field("temperature", "between 0 and 1", "7"),
                400,
                "between 0 and 1",
                "invalid_request_error",
            ),
            (
                ApiError::storage_full(),
                507,
                "Storage is full. Free space on the object store or delete old jobs, then try again.",
                "server_error",
            ),
        ];
        for (error, status, message, kind) in cases {
            let error = error.into_openai();
            assert_eq!(error.status.as_u16(), status);
            assert_eq!(error.body["error"]["message"], message);
            assert_eq!(error.body["error"]["type"], kind);
        }
    }

    #[test]
    fn a_structured_message_keeps_its_code_in_the_openai_shape() {
        let error = ApiError::structured(
            StatusCode::BAD_GATEWAY,
            json!({"code": "upstream_fetch_failed", "message": "no luck", "upstream_status": "404"}),
        )
        .into_openai();
        assert_eq!(error.body["error"]["code"], "upstream_fetch_failed");
        assert_eq!(error.body["error"]["message"], "no luck");
    }
}
