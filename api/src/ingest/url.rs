//! `audio_url`: fetches audio from the public internet into the object store.
//!
//! The guard holds at every step: the URL is judged before each request, redirects are followed by hand so that every
//! hop is judged, names are resolved once by [`GuardedResolver`] and the connection goes to exactly the addresses that
//! were judged, and no proxy of the environment is used.

mod link;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dalston_schema::JobId;
use futures_util::{StreamExt, TryStreamExt};
use poem::http::StatusCode;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{self, HeaderMap};
use serde_json::json;
use url::Url;

use super::address_guard::{self, Reach, Refusal};
use super::{IngestError, Received, extension_of};
use crate::config::UrlIngest;
use crate::error::ApiError;
use crate::state::App;

pub use link::display_name;

/// Most redirects followed.
const MAX_REDIRECTS: usize = 10;
/// Longest time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How we introduce ourselves.
const USER_AGENT: &str = concat!("Dalston/", env!("CARGO_PKG_VERSION"));

/// Why a URL was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// It cannot be read as a URL.
    #[error("Invalid audio_url: {0}")]
    Invalid(#[from] url::ParseError),
    /// It may not be fetched.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The server behind it answered with an error.
    #[error("The server of audio_url answered {status}")]
    Upstream {
        /// Its status.
        status: u16,
        /// The URL without its query.
        url: String,
    },
    /// It goes round in circles.
    #[error("audio_url redirects more than {MAX_REDIRECTS} times")]
    Redirects,
    /// What it gives is not audio by its content type and name.
    #[error(
        "Unsupported content type '{0}' at audio_url. It must be audio/*, video/mp4, video/webm, or \
         application/octet-stream with an audio file extension."
    )]
    ContentType(String),
    /// It took too long.
    #[error("audio_url could not be fetched within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The connection failed.
    #[error("audio_url could not be fetched: {0}")]
    Connection(String),
}

impl UrlError {
    /// The error in the standard shape.
    #[must_use]
    pub fn into_standard(self) -> ApiError {
        let message = self.to_string();
        match self {
            Self::Upstream { status, url } => ApiError::structured(
                StatusCode::BAD_GATEWAY,
                json!({
                    "code": "upstream_fetch_failed", "message": message,
                    "upstream_status": status.to_string(), "upstream_url": url,
                }),
            ),
            _ => ApiError::bad_request(message),
        }
    }
}

/// The client that fetches.
pub struct Fetcher {
    client: reqwest::Client,
    limits: UrlIngest,
}

impl Fetcher {
    /// Makes the client.
    ///
    /// # Errors
    /// When the TLS roots of this machine cannot be read.
    pub fn new(limits: UrlIngest) -> Result<Self, reqwest::Error> {
        Self::resolving_with(limits, Arc::new(SystemResolver))
    }

    fn resolving_with(limits: UrlIngest, names: Arc<dyn Lookup>) -> Result<Self, reqwest::Error> {
        // Another part of the process may have chosen the provider already; it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .dns_resolver(Arc::new(GuardedResolver {
                reach: limits.reach,
                names,
            }))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT.min(limits.timeout))
            .timeout(limits.timeout)
            .build()?;
        Ok(Self { client, limits })
    }

    /// Requests a URL, following redirects, and answers the successful response with the URL it came from.
    async fn request(&self, url: &Url) -> Result<reqwest::Response, UrlError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            address_guard::check_url(&url, self.limits.reach)?;
            let response = self
                .client
                .get(url.clone())
                .header(header::ACCEPT, "audio/*,*/*;q=0.8")
                .send()
                .await
                .map_err(|error| self.explain(&error))?;
            let status = response.status();
            if status.is_redirection()
                && let Some(location) = response.headers().get(header::LOCATION)
            {
                let location = location
                    .to_str()
                    .map_err(|_| UrlError::Connection("its redirect is unreadable".to_owned()))?;
                url = url.join(location)?;
                continue;
            }
            if !status.is_success() {
                return Err(UrlError::Upstream {
                    status: status.as_u16(),
                    url: without_query(&url),
                });
            }
            return Ok(response);
        }
        Err(UrlError::Redirects)
    }

    fn explain(&self, error: &reqwest::Error) -> UrlError {
        if error.is_timeout() {
            return UrlError::TimedOut(self.limits.timeout);
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(current) = cause {
            if let Some(refusal) = current.downcast_ref::<Refusal>() {
                return UrlError::Refused(refusal.clone());
            }
            cause = current.source();
        }
        UrlError::Connection(if error.is_connect() {
            "the connection failed".to_owned()
        } else {
            "the transfer failed".to_owned()
        })
    }
}

/// Reads `audio_url` as users paste it: share links become download links, and `http` on its usual port `https`.
///
/// # Errors
/// When it is no URL or may not be fetched.
pub fn parse(text: &str, reach: Reach) -> Result<Url, UrlError> {
    let mut url = link::download_link(Url::parse(text.trim())?);
    address_guard::check_url(&url, reach)?;
    if url.scheme() == "http" && url.port().is_none() && !link::is_loopback(&url) {
        // Cannot fail between two special schemes.
        let _ = url.set_scheme("https");
    }
    Ok(url)
}

/// Fetches a URL and stores it; at most `limit` bytes.
///
/// # Errors
/// Whatever stopped it; nothing stays stored then.
pub async fn fetch(app: &App, url: &Url, limit: u64) -> Result<Received, IngestError> {
    let limit = limit.min(app.config.url_ingest.max_bytes);
    let response = app.fetcher.request(url).await?;
    let name = file_name(&response);
    let content_type = content_type(response.headers());
    check_content_type(&content_type, &name)?;
    if response.content_length().is_some_and(|size| size > limit) {
        return Err(IngestError::TooLarge { limit });
    }
    let name = if extension_of(&name).is_empty() {
        format!("audio.{}", link::extension_for(&content_type))
    } else {
        name
    };
    let mut received = Received::reserve(&app.storage, JobId::generate(), &extension_of(&name));
    received.origin.file_name = Some(name);
    received.origin.fingerprint = Some(url.to_string());
    let failure = Arc::new(std::sync::Mutex::new(None));
    let noted = failure.clone();
    let stream = response.bytes_stream().map_err(move |error| {
        let text = error.to_string();
        if let Ok(mut slot) = noted.lock() {
            *slot = Some(error);
        }
        std::io::Error::other(text)
    });
    let stored = app
        .storage
        .put_stream(&received.key, stream.boxed(), limit)
        .await;
    match stored {
        Ok(size) => {
            received.size_bytes = size;
            Ok(received)
        }
        Err(error) => {
            received.discard().await;
            let failure = failure.lock().ok().and_then(|mut slot| slot.take());
            Err(match failure {
                Some(error) => app.fetcher.explain(&error).into(),
                None => error.into(),
            })
        }
    }
}

fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

fn check_content_type(content_type: &str, name: &str) -> Result<(), UrlError> {
    let known = content_type.starts_with("audio/")
        || matches!(content_type, "video/mp4" | "video/webm" | "application/ogg");
    let unspecific = matches!(
        content_type,
        "" | "application/octet-stream" | "binary/octet-stream"
    );
    if known || (unspecific && link::is_audio_extension(&extension_of(name))) {
        Ok(())
    } else {
        Err(UrlError::ContentType(content_type.to_owned()))
    }
}

fn file_name(response: &reqwest::Response) -> String {
    response
        .headers()
        .get(header::CONTENT_DISPOSITION)
        .and_then(|value| value.to_str().ok())
        .and_then(link::disposition_name)
        .or_else(|| link::last_segment(response.url()))
        .unwrap_or_default()
}

fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// Looks names up.
trait Lookup: Send + Sync {
    fn lookup(&self, name: String) -> Looking;
}

type Looking =
    std::pin::Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send + 'static>>;

struct SystemResolver;

impl Lookup for SystemResolver {
    fn lookup(&self, name: String) -> Looking {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.collect())
        })
    }
}

/// Resolves a name once and hands on its addresses only if every one may be reached, so that what was judged is what
/// is connected to.
struct GuardedResolver {
    reach: Reach,
    names: Arc<dyn Lookup>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        let looking = self.names.lookup(name.as_str().to_owned());
        Box::pin(async move {
            let found = looking.await?;
            let allowed = found
                .iter()
                .all(|address| address_guard::is_allowed(address.ip(), reach));
            if !allowed {
                return Err(Refusal::PrivateAddress.into());
            }
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests;
