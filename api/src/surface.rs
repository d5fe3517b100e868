//! What is true of every answer, whatever happens inside: a request id, CORS headers, an error shape of ours even after
//! a panic, a line in the log and a sample in the metrics.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use futures_util::FutureExt;
use poem::PathPattern;
use poem::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use poem::{Endpoint, IntoResponse, Request, Response};
use tracing::Instrument;
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
    let query = request.uri().query().map(str::to_owned);
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

    let (endpoint, mut response) = if is_preflight(&request) {
        (None, preflight(&request))
    } else {
        // What is logged on the way names the request.
        let span = tracing::info_span!("request", request.id = id.0, method = %method, path);
        let called = AssertUnwindSafe(routes.call(request).instrument(span))
            .catch_unwind()
            .await;
        match called {
            Ok(Ok(output)) => {
                let response = output.into_response();
                (endpoint_label(response.data()), response)
            }
            Ok(Err(error)) => {
                let unrouted = error.is::<poem::error::NotFoundError>();
                let endpoint = endpoint_label(error.data().filter(|_| !unrouted));
                (endpoint, refuse(&error, &path, query.as_deref()))
            }
            Err(_) => {
                tracing::error!(request.id = id.0, "a handler panicked in request {}", id.0);
                let error = ApiError::standard(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "An internal error occurred",
                );
                (None, error.response())
            }
        }
    };

    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    allow_origin(&mut response, origin.as_ref());
    record(&method, endpoint, response.status(), started);
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

fn refuse(error: &poem::Error, path: &str, query: Option<&str>) -> Response {
    if error.is::<poem::error::NotFoundError>()
        && let Some(location) = without_slash(path, query)
    {
        let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
        response.headers_mut().insert(header::LOCATION, location);
        return response;
    }
    let error = error::from_framework(error, path, query);
    if path == "/v1/audio/translations" {
        return error.into_openai().response();
    }
    error.response()
}

/// Where to look for a path that ends in a slash: at the same one without it, asked the same. Never at another host,
/// which is what browsers read two slashes at the beginning as.
fn without_slash(path: &str, query: Option<&str>) -> Option<HeaderValue> {
    let trimmed = path.strip_suffix('/')?;
    if trimmed.is_empty() || trimmed.starts_with("//") {
        return None;
    }
    let location = match query {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    HeaderValue::from_str(&location).ok()
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

fn record(method: &Method, endpoint: Option<String>, status: StatusCode, started: Instant) {
    let labels = [
        ("method", method_label(method)),
        ("endpoint", endpoint.unwrap_or_else(|| "other".to_owned())),
        ("status", status.as_u16().to_string()),
    ];
    metrics::counter!("dalston_gateway_requests_total", &labels).increment(1);
    metrics::histogram!("dalston_gateway_request_duration_seconds", &labels[..2])
        .record(started.elapsed().as_secs_f64());
}

/// The method; those that nothing here answers share one label.
fn method_label(method: &Method) -> String {
    match *method {
        Method::GET
        | Method::POST
        | Method::PATCH
        | Method::PUT
        | Method::DELETE
        | Method::HEAD
        | Method::OPTIONS => method.to_string(),
        _ => "other".to_owned(),
    }
}

/// The pattern of the matched route, so that there are as many labels as routes whatever is asked for. `None` for what
/// matched none.
fn endpoint_label(matched: Option<&PathPattern>) -> Option<String> {
    let segments = matched?.0.split('/').filter(|segment| !segment.is_empty());
    let mut before = "";
    let label: String = segments
        .map(|segment| {
            match (
                segment.as_bytes()[0],
                std::mem::replace(&mut before, segment),
            ) {
                (b':' | b'*', "export") => "/{format}".to_owned(),
                (b':' | b'*', _) => "/{id}".to_owned(),
                _ => format!("/{segment}"),
            }
        })
        .collect();
    Some(if label.is_empty() {
        "/".to_owned()
    } else {
        label
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_parts_of_a_route_make_one_label() {
        for (pattern, label) in [
            ("/", "/"),
            ("//health", "/health"),
            ("/v1/models/:param0", "/v1/models/{id}"),
            (
                "/v1/audio/transcriptions/:param0/tasks/:param1/retry",
                "/v1/audio/transcriptions/{id}/tasks/{id}/retry",
            ),
            (
                "/v1/audio/transcriptions/:param0/export/:param1",
                "/v1/audio/transcriptions/{id}/export/{format}",
            ),
        ] {
            let matched = PathPattern(pattern.into());
            assert_eq!(endpoint_label(Some(&matched)).as_deref(), Some(label));
        }
    }

    #[test]
    fn a_slash_too_many_leads_to_the_same_question_on_the_same_host() {
        for (path, query, location) in [
            ("/health/", None, Some("/health")),
            ("/v1/x/", Some("limit=1"), Some("/v1/x?limit=1")),
            ("/health", Some("x"), None),
            ("/", None, None),
            ("//elsewhere.example/", None, None),
        ] {
            let found = without_slash(path, query);
            assert_eq!(found, location.map(HeaderValue::from_static), "{path}");
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
