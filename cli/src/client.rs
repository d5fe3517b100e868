//! The HTTP client of a Dalston server: what the client commands speak.

pub mod events;
pub mod upload;

use anyhow::Context;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::time::Duration;
use url::Url;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the answer of an ordinary request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for the answer of a health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// What the server answered instead of what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{message} (HTTP {})", status.as_u16())]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// The server's message for people.
    pub message: String,
}

/// A server and the key for it.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: Option<SecretString>,
}

impl Client {
    /// A client of the server at `base` (`http://host:port`).
    pub fn new(base: &str, key: Option<SecretString>) -> anyhow::Result<Client> {
        let base = Url::parse(base).with_context(|| format!("{base} is not a URL"))?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("dalston/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Client { http, base, key })
    }

    /// The server's address.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Whether a key will be sent.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Whether a server answers and calls itself healthy.
    pub async fn is_healthy(&self) -> bool {
        let answer = self
            .request(Method::GET, &["health"])
            .timeout(HEALTH_TIMEOUT)
            .send()
            .await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// A request for the path made of `segments`, each escaped as needed, with the key.
    pub fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        self.request_with(method, segments, &[])
    }

    fn request_with(
        &self,
        method: Method,
        segments: &[&str],
        query: &[(&str, String)],
    ) -> RequestBuilder {
        let mut url = self.base.clone();
        // `http://…` URLs can always have path segments.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key.expose_secret()),
            None => request,
        }
    }

    /// GETs JSON.
    pub async fn get(&self, segments: &[&str], query: &[(&str, String)]) -> anyhow::Result<Value> {
        self.json(self.request_with(Method::GET, segments, query))
            .await
    }

    /// POSTs JSON and reads JSON.
    pub async fn post(&self, segments: &[&str], body: &Value) -> anyhow::Result<Value> {
        self.json(self.request(Method::POST, segments).json(body))
            .await
    }

    /// DELETEs.
    pub async fn delete(
        &self,
        segments: &[&str],
        query: &[(&str, String)],
    ) -> anyhow::Result<Value> {
        self.json(self.request_with(Method::DELETE, segments, query))
            .await
    }

    /// GETs text.
    pub async fn text(
        &self,
        segments: &[&str],
        query: &[(&str, String)],
    ) -> anyhow::Result<String> {
        let answer = self
            .send(
                self.request_with(Method::GET, segments, query)
                    .timeout(ANSWER_TIMEOUT),
            )
            .await?;
        Ok(answer.text().await?)
    }

    async fn json(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        let answer = self.send(request.timeout(ANSWER_TIMEOUT)).await?;
        let body = answer.bytes().await?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).context("the server's answer is not JSON")
    }

    /// Sends a request; an answer that is no success becomes an [`ApiError`].
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let answer = request
            .send()
            .await
            .map_err(|error| self.unreachable(error))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.refused(answer).await.into())
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let why = if error.is_timeout() {
            "does not answer in time"
        } else {
            "cannot be reached"
        };
        anyhow::Error::new(error).context(format!(
            "the server at {} {why}; is it running, and is --server right?",
            self.base
        ))
    }

    async fn refused(&self, answer: Response) -> ApiError {
        let status = answer.status();
        let body = answer.text().await.unwrap_or_default();
        let mut message =
            message_of(&body).unwrap_or_else(|| "the server gave no reason".to_owned());
        if status == StatusCode::UNAUTHORIZED {
            let remedy = if self.key.is_some() {
                "check --api-key"
            } else {
                "set DALSTON_API_KEY or use --api-key"
            };
            message = format!("{message}; {remedy}");
        }
        ApiError { status, message }
    }
}

/// The message in an error body, in any of the forms the API uses: `{"error": {"message"}}` (where the message may again be
/// an object with a `message`), `{"detail": "…"}`, and a list of `{"loc", "msg"}`.
fn message_of(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    let message = body
        .pointer("/error/message/message")
        .or_else(|| body.pointer("/error/message"))
        .or_else(|| body.get("detail"))?;
    if let Some(faults) = message.as_array() {
        return Some(
            faults
                .iter()
                .filter_map(fault)
                .collect::<Vec<_>>()
                .join("; "),
        );
    }
    message.as_str().map(str::to_owned)
}

/// `field: what is wrong` of one validation fault.
fn fault(fault: &Value) -> Option<String> {
    let place = fault.get("loc")?.as_array()?.last().map(|last| {
        last.as_str()
            .map_or_else(|| last.to_string(), str::to_owned)
    });
    Some(format!(
        "{}: {}",
        place.unwrap_or_default(),
        fault.get("msg")?.as_str()?
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_reason_is_found_in_every_form_of_error() {
        let check = |body: &str, message: Option<&str>| {
            assert_eq!(message_of(body).as_deref(), message, "{body}");
        };
        check(
            r#"{"error":{"code":"not_found","message":"Job not found"}}"#,
            Some("Job not found"),
        );
        check(
            r#"{"error":{"code":"error","message":{"code":"audio_purged","message":"Audio has been purged"}}}"#,
            Some("Audio has been purged"),
        );
        check(
            r#"{"detail":"Missing required permission: model:write","code":"x"}"#,
            Some("Missing required permission: model:write"),
        );
        check(
            r#"{"detail":[{"loc":["query","limit"],"msg":"must be 1 to 100"}]}"#,
            Some("limit: must be 1 to 100"),
        );
        check("<html>", None);
    }

    #[test]
    fn ids_with_slashes_stay_one_path_segment() {
        crate::install_tls();
        let client = Client::new("http://127.0.0.1:8000/", None).unwrap();
        let request = client
            .request(Method::GET, &["v1", "models", "org/name"])
            .build()
            .unwrap();
        assert_eq!(
            request.url().as_str(),
            "http://127.0.0.1:8000/v1/models/org%2Fname"
        );
    }
}
