//! Who calls: the key of a request becomes a [`Caller`], with what it may do and whose jobs it sees.

mod key_cache;
mod permission;

use std::sync::Arc;

use chrono::{DateTime, TimeZone, Utc};
use dalston_schema::db::audit::NewAuditEvent;
use dalston_schema::db::jobs::Scope;
use dalston_schema::db::keys::ApiKey;
use dalston_schema::db::rate_limits::{self, Counted, RateDecision};
use dalston_schema::{ApiKeyId, TenantId};
use poem::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaSecurityScheme, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use uuid::Uuid;

pub use key_cache::KeyCache;
pub use permission::{KeyScope, Permission};

use crate::config::SecurityMode;
use crate::error::ApiError;
use crate::state::App;
use crate::surface::RequestId;

/// Seconds a key's own limit asks a client to wait.
const KEY_WINDOW_SECONDS: &str = "60";

/// Who a key stands for.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The key, as stored.
    pub key: ApiKey,
    /// What it may do.
    pub scopes: Vec<KeyScope>,
    /// False for the stand-in of security mode `none`, which is no stored key.
    pub stored: bool,
}

impl Principal {
    /// The principal of a stored key. Scopes that this version does not know are ignored.
    #[must_use]
    pub fn of(key: ApiKey) -> Self {
        let scopes = key
            .scopes
            .iter()
            .filter_map(|scope| KeyScope::parse(scope))
            .collect();
        Self {
            key,
            scopes,
            stored: true,
        }
    }

    /// The administrator that everybody is in security mode `none`.
    #[must_use]
    pub fn everybody() -> Self {
        let time = |year| Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).single();
        Self {
            key: ApiKey {
                id: ApiKeyId(Uuid::from_u128(2)),
                prefix: "dk_dev0000".to_owned(),
                name: "Development".to_owned(),
                tenant_id: TenantId::DEFAULT,
                scopes: vec!["admin".to_owned()],
                rate_limit: None,
                created_at: time(2026).unwrap_or(DateTime::<Utc>::MIN_UTC),
                last_used_at: None,
                expires_at: time(2100).unwrap_or(DateTime::<Utc>::MAX_UTC),
                revoked_at: None,
                created_by_key_id: None,
            },
            scopes: vec![KeyScope::Admin],
            stored: false,
        }
    }

    fn is_admin(&self) -> bool {
        self.scopes.contains(&KeyScope::Admin)
    }
}

/// The caller of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    principal: Arc<Principal>,
    /// `X-Request-ID` of the request.
    pub request_id: String,
    ip_address: Option<String>,
    user_agent: Option<String>,
}

impl Caller {
    /// Who calls.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.principal.key.tenant_id
    }

    /// The key that owns what this caller makes.
    #[must_use]
    pub fn owner(&self) -> Option<ApiKeyId> {
        self.principal.stored.then_some(self.principal.key.id)
    }

    /// Whose jobs the caller sees: all of the tenant for administrators, else its own.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope {
            tenant_id: self.tenant(),
            key_id: (!self.principal.is_admin()).then_some(self.principal.key.id),
        }
    }

    /// Goes on only with a permission.
    ///
    /// # Errors
    /// 403 that names it.
    pub fn require(&self, permission: Permission) -> Result<(), ApiError> {
        let allowed = self
            .principal
            .scopes
            .iter()
            .any(|scope| scope.grants(permission));
        if allowed {
            Ok(())
        } else {
            Err(ApiError::missing_permission(permission.as_str()))
        }
    }

    /// Counts a request that costs something against the tenant's limit.
    ///
    /// # Errors
    /// 429 with the limit's headers.
    pub async fn take_request(&self, app: &App) -> Result<RequestBudget, ApiError> {
        let limit = app.config.limits.requests_per_minute;
        let per_minute = i32::try_from(limit).unwrap_or(i32::MAX);
        let decision =
            rate_limits::take(&app.pool, Counted::Tenant(self.tenant()), per_minute).await?;
        let budget = RequestBudget { limit, decision };
        if decision.allowed {
            return Ok(budget);
        }
        let error = ApiError::standard(StatusCode::TOO_MANY_REQUESTS, "Rate limit exceeded")
            .with_header(
                header::RETRY_AFTER,
                &HeaderValue::from(decision.reset_seconds),
            );
        Err(budget
            .headers()
            .into_iter()
            .fold(error, |error, (name, value)| {
                error.with_header(name, &value)
            }))
    }

    /// Writes a line of the audit log. Trouble with it is logged and does not fail the request.
    pub async fn audit(
        &self,
        app: &App,
        action: &str,
        (resource_type, resource_id): (&str, String),
        detail: Option<serde_json::Value>,
    ) {
        let event = NewAuditEvent {
            correlation_id: Some(self.request_id.clone()),
            tenant_id: Some(self.tenant()),
            actor_type: "api_key".to_owned(),
            actor_id: self.principal.key.prefix.clone(),
            action: action.to_owned(),
            resource_type: resource_type.to_owned(),
            resource_id,
            detail,
            ip_address: self.ip_address.clone(),
            user_agent: self.user_agent.clone(),
        };
        if let Err(error) = dalston_schema::db::audit::append(&app.pool, &event).await {
            tracing::error!(%error, action, "the audit log could not be written");
        }
    }
}

/// What a tenant has left of its requests.
#[derive(Clone, Copy, Debug)]
pub struct RequestBudget {
    limit: u32,
    decision: RateDecision,
}

impl RequestBudget {
    /// The headers that tell a client, under the names two generations of clients read.
    #[must_use]
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let limit = HeaderValue::from(self.limit);
        let remaining = HeaderValue::from(self.decision.remaining.max(0));
        let reset = HeaderValue::from_str(&format!("{}s", self.decision.reset_seconds))
            .unwrap_or(HeaderValue::from_static("60s"));
        vec![
            (HeaderName::from_static("x-ratelimit-limit"), limit.clone()),
            (
                HeaderName::from_static("x-ratelimit-remaining"),
                remaining.clone(),
            ),
            (HeaderName::from_static("x-ratelimit-limit-requests"), limit),
            (
                HeaderName::from_static("x-ratelimit-remaining-requests"),
                remaining,
            ),
            (HeaderName::from_static("x-ratelimit-reset-requests"), reset),
        ]
    }
}

/// The key a request carries: `Authorization: Bearer`, else `xi-api-key`.
fn presented_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        })
        .filter(|key| !key.is_empty());
    bearer.or_else(|| {
        let key = headers.get("xi-api-key")?.to_str().ok()?.trim();
        (!key.is_empty()).then_some(key)
    })
}

/// Whether a browser sends this for a page that is not of this server. Whoever needs no key must not be asked by every
/// page that somebody near the server opens.
fn is_from_another_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let authority = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    authority.map(|(_, authority)| authority) != host
}

async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Arc<Principal>, ApiError> {
    if app.config.security_mode == SecurityMode::None {
        if is_from_another_page(headers) {
            return Err(ApiError::standard(
                StatusCode::FORBIDDEN,
                "Without API keys (DALSTON_SECURITY_MODE=none) pages of other sites may not call this server",
            ));
        }
        return Ok(Arc::new(Principal::everybody()));
    }
    let key = presented_key(headers).ok_or_else(|| ApiError::unauthorized("Missing API key"))?;
    if key.starts_with("sk-") {
        return Err(ApiError::openai(
            StatusCode::UNAUTHORIZED,
            "authentication_error",
            Some("invalid_api_key"),
            "Invalid API key. This server's keys start with dk_; an administrator makes them with \
             `dalston keys create`.",
            None,
        )
        .challenge());
    }
    if !key.starts_with("dk_") {
        return Err(ApiError::unauthorized("Invalid API key"));
    }
    let principal = app
        .keys
        .find(&app.pool, key)
        .await?
        .ok_or_else(|| ApiError::unauthorized("Invalid API key"))?;
    if let Some(limit) = principal.key.rate_limit {
        let decision = rate_limits::take(&app.pool, Counted::Key(principal.key.id), limit).await?;
        if !decision.allowed {
            return Err(
                ApiError::standard(StatusCode::TOO_MANY_REQUESTS, "Rate limit exceeded")
                    .with_header(
                        header::RETRY_AFTER,
                        &HeaderValue::from_static(KEY_WINDOW_SECONDS),
                    ),
            );
        }
    }
    Ok(principal)
}

impl<'a> ApiExtractor<'a> for Caller {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        let scheme = |ty, description| MetaSecurityScheme {
            ty,
            description: Some(description),
            name: None,
            key_in: None,
            scheme: None,
            bearer_format: None,
            flows: None,
            openid_connect_url: None,
        };
        registry.create_security_scheme(
            "Bearer",
            MetaSecurityScheme {
                scheme: Some("bearer"),
                ..scheme("http", "An API key (dk_…)")
            },
        );
        registry.create_security_scheme(
            "xi-api-key",
            MetaSecurityScheme {
                name: Some("xi-api-key"),
                key_in: Some("header"),
                ..scheme("apiKey", "An API key, as ElevenLabs clients send it")
            },
        );
    }

    fn security_schemes() -> Vec<&'static str> {
        vec!["Bearer", "xi-api-key"]
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let app = request
            .data::<App>()
            .ok_or_else(|| ApiError::internal(&std::io::Error::other("no state in the request")))?;
        let principal = authenticate(app, request.headers()).await?;
        Ok(Self {
            principal,
            request_id: request
                .data::<RequestId>()
                .map(|id| id.0.clone())
                .unwrap_or_default(),
            ip_address: request
                .remote_addr()
                .as_socket_addr()
                .map(|address| address.ip().to_string()),
            user_agent: request
                .header(header::USER_AGENT)
                .map(|agent| agent.chars().take(256).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn bearer_comes_before_the_older_header() {
        let headers = |pairs: &[(&'static str, &str)]| -> HeaderMap {
            pairs
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
                .collect()
        };
        for (pairs, expected) in [
            (
                &[("authorization", "Bearer dk_a"), ("xi-api-key", "dk_b")][..],
                Some("dk_a"),
            ),
            (&[("authorization", "bearer   dk_a ")], Some("dk_a")),
            (
                &[("authorization", "Basic dXNlcg=="), ("xi-api-key", "dk_b")],
                Some("dk_b"),
            ),
            (
                &[("authorization", "Bearer "), ("xi-api-key", "dk_b")],
                Some("dk_b"),
            ),
            (&[("xi-api-key", "")], None),
            (&[], None),
        ] {
            assert_eq!(presented_key(&headers(pairs)), expected, "{pairs:?}");
        }
    }
}
