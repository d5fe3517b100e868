//! What is true of every answer, whatever happens inside: a request id, CORS headers, an error shape of ours even after
//! a panic, a line in the log and a sample in the metrics.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use futures_util::FutureExt;
use poem::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use poem::{Endpoint, IntoResponse, Request, Response};
use uuid::Uuid;

use crate::error::{self, ApiError};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The `X-Request-ID` of a request: the client's own if it is well formed, else one of ours.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

impl RequestId {
    fn of(request: &Request) -> Self {
        let own = request
            .header(&REQUEST_ID)
            .filter(|id| (1..=128).contains(&id.len()))
            .filter(|id| {
                id.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
            });
        Self(own.map_or_else(|| format!("req_{}", Uuid::new_v4().simple()), str::to_owned))
    }
}

/// Calls the routes and makes their answer fit to leave the process.
pub async fn answer<E>(routes: &E, mut request: Request) -> Response
where
    E: Endpoint,
    E::Output: IntoResponse,
{
    let started = Instant::now();
    let id = RequestId::of(&request);
    let method = request.method().clone();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let path = request.uri().path().to_owned();
    if let Some(uri) = one_segment_model(request.method(), request.uri()) {
        *request.uri_mut() = uri;
    }
    if is_pull(&method, &path) {
        // A pull may come without a body, and so without its type, which the parser wants nevertheless.
        let headers = request.headers_mut();
        headers
            .entry(header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("application/json"));
    }
    request.extensions_mut().insert(id.clone());

    let mut response = if is_preflight(&request) {
        preflight(&request)
    } else {
        let called = AssertUnwindSafe(routes.call(request)).catch_unwind().await;
        match called {
            Ok(Ok(output)) => output.into_response(),
            Ok(Err(error)) => refuse(&error, &path),
            Err(_) => {
                tracing::error!(request.id = id.0, "a handler panicked in request {}", id.0);
                ApiError::standard(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "An internal error occurred",
                )
                .response()
            }
        }
    };

    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    allow_origin(&mut response, origin.as_ref());
    record(&method, &path, response.status(), started);
    tracing::debug!(
        request.id = id.0,
        method = %method,
        path,
        status = response.status().as_u16(),
        duration_ms = started.elapsed().as_millis() as u64,
        "answered request {}", id.0
    );
    response
}

fn refuse(error: &poem::Error, path: &str) -> Response {
    if error.status() == StatusCode::NOT_FOUND
        && error.is::<poem::error::NotFoundError>()
        && let Some(trimmed) = path.strip_suffix('/')
        && !trimmed.is_empty()
        && let Ok(location) = HeaderValue::from_str(trimmed)
    {
        let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
        response.headers_mut().insert(header::LOCATION, location);
        return response;
    }
    let error = error::from_framework(error, path);
    if path == "/v1/audio/translations" {
        return error.into_openai().response();
    }
    error.response()
}

/// Model ids contain slashes; clients send them encoded or not. Makes them one path segment for the router.
fn one_segment_model(method: &Method, uri: &Uri) -> Option<Uri> {
    let rest = uri.path().strip_prefix("/v1/models/")?;
    if matches!(rest, "hf/resolve" | "hf/mappings") {
        return None;
    }
    let (id, action) = match rest.strip_suffix("/pull") {
        Some(id) if *method == Method::POST => (id, "/pull"),
        _ => (rest, ""),
    };
    if !id.contains('/') {
        return None;
    }
    let mut rewritten = format!("/v1/models/{}{action}", id.replace('/', "%2F"));
    if let Some(query) = uri.query() {
        rewritten.push('?');
        rewritten.push_str(query);
    }
    rewritten.parse().ok()
}

fn is_pull(method: &Method, path: &str) -> bool {
    *method == Method::POST && path.starts_with("/v1/models/") && path.ends_with("/pull")
}

fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ORIGIN)
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight(request: &Request) -> Response {
    let mut response = Response::builder().content_type("text/plain").body("OK");
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
    );
    let wanted = request
        .headers()
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        wanted.cloned().unwrap_or(HeaderValue::from_static("*")),
    );
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("600"),
    );
    response
}

/// Any origin may call; credentials are keys that the page itself holds.
fn allow_origin(response: &mut Response, origin: Option<&HeaderValue>) {
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        origin.cloned().unwrap_or(HeaderValue::from_static("*")),
    );
    if origin.is_some() {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("*"),
    );
}

fn record(method: &Method, path: &str, status: StatusCode, started: Instant) {
    let endpoint = endpoint_label(path);
    let labels = [
        ("method", method.as_str().to_owned()),
        ("endpoint", endpoint),
        ("status", status.as_u16().to_string()),
    ];
    metrics::counter!("dalston_gateway_requests_total", &labels).increment(1);
    metrics::histogram!("dalston_gateway_request_duration_seconds", &labels[..2])
        .record(started.elapsed().as_secs_f64());
}

/// A path with its variable parts named, so that there are as many labels as routes. Paths that are no route of ours
/// share one label.
fn endpoint_label(path: &str) -> String {
    const ROOTS: [&str; 7] = [
        "v1",
        "auth",
        "health",
        "metrics",
        "docs",
        "openapi.json",
        "redoc",
    ];
    let mut segments = path.trim_matches('/').split('/');
    let root = segments.next().unwrap_or_default();
    if root.is_empty() {
        return "/".to_owned();
    }
    if !ROOTS.contains(&root) {
        return "other".to_owned();
    }
    let mut label = format!("/{root}");
    for (depth, segment) in segments.enumerate() {
        label.push('/');
        if depth == 1 && label == "/v1/models/" {
            label.push_str("{id}");
            break;
        }
        let known = depth < 4
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || b"_-".contains(&byte));
        label.push_str(if known && segment.len() < 24 {
            segment
        } else {
            "{id}"
        });
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_parts_of_a_path_make_one_label() {
        for (path, label) in [
            ("/", "/"),
            ("/health", "/health"),
            ("/v1/models/Systran/faster-whisper-base", "/v1/models/{id}"),
            (
                "/v1/audio/transcriptions/01890000-0000-7000-8000-000000000001/tasks",
                "/v1/audio/transcriptions/{id}/tasks",
            ),
            ("/wp-login.php", "other"),
        ] {
            assert_eq!(endpoint_label(path), label);
        }
    }

    #[test]
    fn a_model_id_with_slashes_becomes_one_segment() {
        let with = |method: Method, uri: &'static str| {
            one_segment_model(&method, &Uri::from_static(uri)).map(|uri| uri.to_string())
        };
        let rewritten = |uri| with(Method::GET, uri);
        assert_eq!(
            rewritten("/v1/models/a/b?x=1"),
            Some("/v1/models/a%2Fb?x=1".into())
        );
        assert_eq!(rewritten("/v1/models/a%2Fb"), None);
        assert_eq!(rewritten("/v1/models"), None);
        assert_eq!(
            with(Method::POST, "/v1/models/a/b/pull"),
            Some("/v1/models/a%2Fb/pull".into())
        );
        assert_eq!(with(Method::POST, "/v1/models/a%2Fb/pull"), None);
        assert_eq!(with(Method::POST, "/v1/models/hf/resolve"), None);
    }
}
