//! The web framework's own errors (routing, parameters, bodies) in our shapes, and in words that say what to change.

use poem::PathPattern;
use poem::http::StatusCode;
use poem_openapi::error::{
    ContentTypeError, ParseMultipartError, ParseParamError, ParsePathError,
    ParseRequestPayloadError,
};
use serde_json::Value;

use super::{ApiError, InvalidValue};

/// Turns an error of the framework into one of ours. `path` and `query` are the request's.
#[must_use]
pub fn from_framework(error: &poem::Error, path: &str, query: Option<&str>) -> ApiError {
    let one = |place, name: &str, message: String, input: Option<String>| {
        ApiError::invalid(vec![InvalidValue {
            place,
            name: name.to_owned(),
            message,
            input: input.map_or(Value::Null, Value::String),
        }])
    };
    if let Some(error) = error.downcast_ref::<ApiError>() {
        return error.clone();
    }
    if let Some(refused) = error.downcast_ref::<ParsePathError>() {
        let sent = error
            .data::<PathPattern>()
            .and_then(|pattern| segment(&pattern.0, path, refused.name));
        return one(
            "path",
            path_parameter(refused.name, path),
            plainly(&refused.reason),
            sent,
        );
    }
    if let Some(error) = error.downcast_ref::<ParseParamError>() {
        let sent = query.and_then(|query| sent_in(query, error.name));
        return one("query", error.name, plainly(&error.reason), sent);
    }
    if let Some(error) = error.downcast_ref::<ParseRequestPayloadError>() {
        return one("body", "", plainly(&error.reason), None);
    }
    if let Some(error) = error.downcast_ref::<ParseMultipartError>() {
        return one("body", "", plainly(&error.reason), None);
    }
    if let Some(error) = error.downcast_ref::<ContentTypeError>() {
        return one("header", "content-type", error.to_string(), None);
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

/// What stands in `path` where the route's `pattern` has this parameter.
fn segment(pattern: &str, path: &str, parameter: &str) -> Option<String> {
    let place = pattern
        .trim_start_matches('/')
        .split('/')
        .position(|segment| segment.strip_prefix(':') == Some(parameter))?;
    let segment = path.trim_start_matches('/').split('/').nth(place)?;
    Some(segment.to_owned())
}

/// What a query says of a parameter.
fn sent_in(query: &str, parameter: &str) -> Option<String> {
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == parameter)
        .map(|(_, value)| value.into_owned())
}

/// The framework names its types and rules; a client wants to know what to send.
fn plainly(reason: &str) -> String {
    let bound = |rule: &str| {
        let (_, rest) = reason.split_once(&format!("verification failed. {rule}("))?;
        Some(rest.split([',', ')']).next()?.trim().to_owned())
    };
    if let Some(least) = bound("minimum") {
        return format!("Input should be at least {least}");
    }
    if let Some(most) = bound("maximum") {
        return format!("Input should be at most {most}");
    }
    let kind = reason
        .split_once("failed to parse \"")
        .or_else(|| reason.split_once("Type \""))
        .and_then(|(_, rest)| rest.split('"').next());
    match kind {
        Some(_) if reason.ends_with("expects an input value.") => "Field required".to_owned(),
        Some("string_uuid") => "Input should be a valid UUID".to_owned(),
        Some(kind) if kind.starts_with("integer") => "Input should be a valid integer".to_owned(),
        Some(kind) if kind.starts_with("number") => "Input should be a valid number".to_owned(),
        Some("boolean") => "Input should be a valid boolean: true or false".to_owned(),
        _ => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_say_what_to_send() {
        for (reason, message) in [
            (
                "verification failed. minimum(1, exclusive: false)",
                "Input should be at least 1",
            ),
            (
                "verification failed. maximum(100, exclusive: false)",
                "Input should be at most 100",
            ),
            (
                "failed to parse \"string_uuid\": invalid character",
                "Input should be a valid UUID",
            ),
            (
                "failed to parse \"integer_int64\": invalid digit found in string",
                "Input should be a valid integer",
            ),
            (
                "Type \"integer_int64\" expects an input value.",
                "Field required",
            ),
            ("something else", "something else"),
        ] {
            assert_eq!(plainly(reason), message);
        }
    }

    #[test]
    fn what_was_sent_is_found_again() {
        assert_eq!(
            segment("/v1/a/:param0/tasks/:param1", "/v1/a/x/tasks/y", "param1").as_deref(),
            Some("y")
        );
        assert_eq!(sent_in("limit=0&x=a%20b", "x").as_deref(), Some("a b"));
        assert_eq!(sent_in("limit=0", "x"), None);
    }
}
