//! Talks to a model hub: which files a repository has at a revision, and their bytes. The interface is the Hugging Face
//! Hub's, which mirrors offer too: `/api/models/{repository}/revision/{revision}`, `/api/models/{repository}/tree/…` and
//! `/{repository}/resolve/{revision}/{file}`. The token goes to the endpoint's own origin and to no redirect target.

use std::time::Duration;

use dalston_schema::catalogue::Precision;
use reqwest::header::{ACCEPT, HeaderMap, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::error::{ModelStoreError, Result};

mod listing;

pub use listing::{RemoteFile, RemoteHash, Snapshot};

use listing::{Info, Sibling, TreeEntry, next_page};

/// Where models are fetched from unless `HF_ENDPOINT` says otherwise.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;
/// Tries of a listing: before anything has arrived, the news that there is no network should come soon.
const LISTING_ATTEMPTS: u32 = 3;
/// Longest wait a server may ask for before a repeated request.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// A server that sends nothing for this long is taken for dead.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How to fetch models.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// Base URL of the hub or a mirror (`HF_ENDPOINT`).
    pub endpoint: String,
    /// Access token (`HF_TOKEN`), sent to the endpoint only.
    pub token: Option<SecretString>,
    /// Refuse to use the network (`DALSTON_OFFLINE=1`, or `HF_HUB_OFFLINE=1`).
    pub offline: bool,
    /// Weights to fetch; `None` takes int8, or float where a repository has no int8.
    pub precision: Option<Precision>,
    /// Branch, tag or commit.
    pub revision: String,
    /// Fetch a model that is here already, and put it in the place of the one that is.
    pub force: bool,
    /// Tries in a row without a byte arriving before a download gives up.
    pub attempts: u32,
    /// Wait before the second try; it doubles with each further one.
    pub retry_after: Duration,
}

impl Default for HubSettings {
    fn default() -> Self {
        Self {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            token: None,
            offline: false,
            precision: None,
            revision: "main".to_owned(),
            force: false,
            attempts: 5,
            retry_after: Duration::from_millis(500),
        }
    }
}

/// Why one try failed, and whether another makes sense.
#[derive(Debug)]
pub enum Failed {
    /// The server or the network may do better next time; the wait is the server's wish.
    ForNow(ModelStoreError, Option<Duration>),
    /// It will fail again.
    ForGood(ModelStoreError),
}

/// A client for one hub.
#[derive(Debug)]
pub struct Hub {
    client: reqwest::Client,
    endpoint: Url,
    token: Option<SecretString>,
    /// Tries in a row without a byte arriving before a download gives up.
    pub attempts: u32,
    retry_after: Duration,
}

impl Hub {
    /// Prepares a client; connects to nothing.
    ///
    /// # Errors
    /// [`ModelStoreError::Hub`] when the endpoint is no http(s) URL.
    pub fn new(settings: &HubSettings) -> Result<Self> {
        let invalid = |message: String| ModelStoreError::Hub {
            host: settings.endpoint.clone(),
            what: "HF_ENDPOINT".to_owned(),
            message,
        };
        let endpoint = Url::parse(settings.endpoint.trim().trim_end_matches('/'))
            .map_err(|error| invalid(format!("\"{error}\"")))?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.cannot_be_a_base() {
            return Err(invalid("\"only http and https are supported\"".to_owned()));
        }
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may be faster; then its provider is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("dalston/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(15))
            .read_timeout(READ_TIMEOUT);
        if matches!(
            endpoint.host_str(),
            Some("localhost" | "127.0.0.1" | "[::1]")
        ) {
            client = client.no_proxy();
        }
        Ok(Self {
            client: client
                .build()
                .map_err(|error| invalid(format!("\"{error}\"")))?,
            endpoint,
            token: settings.token.clone(),
            attempts: settings.attempts.max(1),
            retry_after: settings.retry_after,
        })
    }

    /// Host of the endpoint, with its port where it is not the usual one.
    #[must_use]
    pub fn host(&self) -> String {
        host(&self.endpoint)
    }

    /// The files of a repository at a revision.
    ///
    /// # Errors
    /// Those of [`Hub::get`].
    pub async fn snapshot(&self, repository: &str, revision: &str) -> Result<Snapshot> {
        let mut url = self.url(&["api", "models"], repository, &["revision", revision]);
        url.set_query(Some("blobs=true"));
        let info = match self.json::<Info>(url, repository).await {
            Ok((info, _)) => info,
            // A mirror may lack the page; then the tree must do.
            Err(ModelStoreError::NotFound { .. }) => Info::default(),
            Err(error) => return Err(error),
        };
        let commit = info.sha.unwrap_or_else(|| revision.to_owned());
        let mut files: Vec<RemoteFile> =
            info.siblings.into_iter().map(Sibling::into_file).collect();
        if files.is_empty() || files.iter().any(|file| file.size.is_none()) {
            match self.tree(repository, &commit).await {
                Ok(tree) => files = tree,
                Err(ModelStoreError::NotFound { .. }) if !files.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Snapshot {
            commit,
            files,
            model_type: info.config.and_then(|config| config.model_type),
        })
    }

    /// Every page of a repository's recursive listing.
    async fn tree(&self, repository: &str, revision: &str) -> Result<Vec<RemoteFile>> {
        let mut url = self.url(&["api", "models"], repository, &["tree", revision]);
        url.set_query(Some("recursive=1"));
        let mut files = Vec::new();
        loop {
            let (page, headers) = self.json::<Vec<TreeEntry>>(url.clone(), repository).await?;
            files.extend(page.into_iter().filter_map(TreeEntry::into_file));
            match next_page(&headers, &url) {
                Some(next) if next != url => url = next,
                _ => return Ok(files),
            }
        }
    }

    /// The URL of a file's contents.
    #[must_use]
    pub fn file_url(&self, repository: &str, revision: &str, path: &str) -> Url {
        let mut tail = vec!["resolve", revision];
        tail.extend(path.split('/'));
        self.url(&[], repository, &tail)
    }

    fn url(&self, head: &[&str], repository: &str, tail: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments
                .pop_if_empty()
                .extend(head)
                .extend(repository.split('/'))
                .extend(tail);
        }
        url
    }

    async fn json<T: for<'de> Deserialize<'de>>(
        &self,
        url: Url,
        repository: &str,
    ) -> Result<(T, HeaderMap)> {
        let attempts = self.attempts.min(LISTING_ATTEMPTS);
        let mut tries = 0;
        loop {
            match self.json_once(&url, repository).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => self.pause(failed, &mut tries, attempts).await?,
            }
        }
    }

    async fn json_once<T: for<'de> Deserialize<'de>>(
        &self,
        url: &Url,
        repository: &str,
    ) -> Result<(T, HeaderMap), Failed> {
        let response = self.get(url.clone(), 0, repository, repository).await?;
        let headers = response.headers().clone();
        let body = response
            .bytes()
            .await
            .map_err(|error| self.unreachable(url, &error))?;
        match serde_json::from_slice(&body) {
            Ok(value) => Ok((value, headers)),
            Err(error) => Err(Failed::ForGood(ModelStoreError::Hub {
                host: self.host(),
                what: url.path().to_owned(),
                message: format!("something that is no file list (\"{error}\")"),
            })),
        }
    }

    /// After a failed try: waits for the next one, or gives the error back when that was the last of `attempts`.
    ///
    /// # Errors
    /// The error of the failed try.
    pub async fn pause(&self, failed: Failed, tries: &mut u32, attempts: u32) -> Result<()> {
        match failed {
            Failed::ForGood(error) => Err(error),
            Failed::ForNow(error, wish) => {
                *tries += 1;
                if *tries >= attempts {
                    return Err(error);
                }
                let wait = self
                    .retry_after
                    .saturating_mul(2_u32.saturating_pow(*tries - 1));
                let wait = wish.unwrap_or(wait).min(MAX_RETRY_AFTER);
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                tracing::info!(%error, wait_ms, "the download is tried again");
                tokio::time::sleep(wait).await;
                Ok(())
            }
        }
    }

    /// Asks for a URL from byte `from` on, following redirects, and returns an answer of the 200s. `what` names the
    /// thing in errors.
    ///
    /// # Errors
    /// [`Failed`], with whether to try again.
    pub async fn get(
        &self,
        url: Url,
        from: u64,
        repository: &str,
        what: &str,
    ) -> Result<Response, Failed> {
        let mut url = url;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client.get(url.clone()).header(ACCEPT, "*/*");
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = &self.token
                && url.origin() == self.endpoint.origin()
            {
                request = request.bearer_auth(token.expose_secret());
            }
            let response = request
                .send()
                .await
                .map_err(|error| self.unreachable(&url, &error))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if status.is_redirection() {
                url = self.redirect(&url, &response, what)?;
                continue;
            }
            return Err(self.refusal(&url, &response, repository, what));
        }
        Err(Failed::ForGood(self.odd(
            &url,
            what,
            "more than 10 redirects",
        )))
    }

    fn redirect(&self, url: &Url, response: &Response, what: &str) -> Result<Url, Failed> {
        let target = response
            .headers()
            .get(LOCATION)
            .and_then(|location| url.join(location.to_str().ok()?).ok());
        match target {
            Some(target) if target.scheme() == url.scheme() || target.scheme() == "https" => {
                Ok(target)
            }
            _ => Err(Failed::ForGood(self.odd(
                url,
                what,
                "a redirect that cannot be followed",
            ))),
        }
    }

    /// Translates an error status, with the hub's own error code (`X-Error-Code`) where it sends one.
    fn refusal(&self, url: &Url, response: &Response, repository: &str, what: &str) -> Failed {
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.chars().take(200).collect::<String>())
        };
        let status = response.status();
        let code = header("x-error-code").unwrap_or_default();
        let message = header("x-error-message").unwrap_or_else(|| status.to_string());
        let not_found = |what: String| {
            Failed::ForGood(ModelStoreError::NotFound {
                host: host(url),
                what,
            })
        };
        let refused = |remedy| {
            Failed::ForGood(ModelStoreError::Refused {
                host: host(url),
                repository: repository.to_owned(),
                message: message.clone(),
                remedy,
            })
        };
        match (status, code.as_str()) {
            (_, "RepoNotFound") if self.token.is_none() => not_found(format!(
                "public repository {repository} (for a private one, set HF_TOKEN)"
            )),
            (_, "RepoNotFound") => {
                not_found(format!("repository {repository} that HF_TOKEN may read"))
            }
            (_, "RevisionNotFound") => not_found(format!("such revision of {repository}")),
            (_, "GatedRepo") => refused(
                "open its page on the hub, accept its conditions, and set HF_TOKEN to a token of that account",
            ),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) if self.token.is_none() => {
                refused("set HF_TOKEN to a token that may read it")
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                refused("HF_TOKEN is set and not accepted for it; make a token that may read it")
            }
            (StatusCode::NOT_FOUND, _) => not_found(what.to_owned()),
            (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS, _) => Failed::ForNow(
                self.odd(url, what, &status.to_string()),
                wished_wait(response),
            ),
            _ if status.is_server_error() => Failed::ForNow(
                self.odd(url, what, &status.to_string()),
                wished_wait(response),
            ),
            _ => Failed::ForGood(self.odd(url, what, &status.to_string())),
        }
    }

    fn odd(&self, url: &Url, what: &str, message: &str) -> ModelStoreError {
        ModelStoreError::Hub {
            host: host(url),
            what: what.to_owned(),
            message: message.to_owned(),
        }
    }

    /// A failure below HTTP, told by its innermost cause.
    pub fn unreachable(&self, url: &Url, error: &reqwest::Error) -> Failed {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Failed::ForNow(
            ModelStoreError::Unreachable {
                host: host(url),
                message: cause.to_string(),
            },
            None,
        )
    }
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn wished_wait(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}
