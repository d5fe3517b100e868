//! `/auth`: API keys and who one is.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dalston_schema::ApiKeyId;
use dalston_schema::db::keys::{self, ApiKey, NewApiKey};
use poem::http::StatusCode;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use rand::Rng;
use uuid::Uuid;

use super::transcriptions::NoContent;
use crate::auth::{Caller, KeyScope, Permission};
use crate::body::Body;
use crate::document::Tag;
use crate::error::ApiError;
use crate::state::App;
use crate::timestamp::Timestamp;

/// Random bytes in a key.
const KEY_BYTES: usize = 32;
/// Characters of a key that are shown.
const PREFIX_CHARACTERS: usize = 10;

/// A key to be made.
#[derive(Object)]
pub struct CreateKey {
    /// Name shown to people, 1–255 characters.
    #[oai(validator(min_length = 1, max_length = 255))]
    name: String,
    /// What it may do; null for `jobs:read`, `jobs:write` and `realtime`.
    scopes: Option<Vec<String>>,
    /// Requests a minute, 1–10000; null is unlimited.
    #[oai(validator(minimum(value = "1"), maximum(value = "10000")))]
    rate_limit: Option<i32>,
}

/// A new key.
#[derive(Object)]
pub struct KeyCreated {
    /// Its id.
    id: Uuid,
    /// The key itself, shown only now.
    key: String,
    /// Its first characters.
    prefix: String,
    /// Its name.
    name: String,
    /// The tenant it acts for.
    tenant_id: Uuid,
    /// What it may do.
    scopes: Vec<String>,
    /// Requests a minute; null is unlimited.
    rate_limit: Option<i32>,
    /// When it was made.
    created_at: Timestamp,
    /// When it stops working.
    expires_at: Timestamp,
}

/// A key, without the key itself.
#[derive(Object)]
#[oai(rename = "ApiKey")]
pub struct KeyObject {
    /// Its id.
    id: Uuid,
    /// Its first characters.
    prefix: String,
    /// Its name.
    name: String,
    /// The tenant it acts for.
    tenant_id: Uuid,
    /// What it may do.
    scopes: Vec<String>,
    /// Requests a minute; null is unlimited.
    rate_limit: Option<i32>,
    /// When it was made.
    created_at: Timestamp,
    /// When it was last used.
    last_used_at: Option<Timestamp>,
    /// When it stops working.
    expires_at: Timestamp,
    /// It is the key of this request.
    is_current: bool,
    /// It does not work any more.
    is_revoked: bool,
}

/// Keys, newest first.
#[derive(Object)]
pub struct KeyList {
    /// The keys.
    keys: Vec<KeyObject>,
    /// How many.
    total: usize,
}

/// The key of this request.
#[derive(Object)]
pub struct CurrentKey {
    /// Its id.
    id: Uuid,
    /// Its first characters.
    prefix: String,
    /// Its name.
    name: String,
    /// The tenant it acts for.
    tenant_id: Uuid,
    /// What it may do.
    scopes: Vec<String>,
    /// Requests a minute; null is unlimited.
    rate_limit: Option<i32>,
    /// When it was made.
    created_at: Timestamp,
    /// When it was last used.
    last_used_at: Option<Timestamp>,
    /// When it stops working.
    expires_at: Timestamp,
}

/// The answer to a new key.
#[derive(ApiResponse)]
pub enum Created {
    /// The key, shown once.
    #[oai(status = 201)]
    Key(Json<KeyCreated>),
}

/// The key endpoints.
pub struct KeysApi(pub App);

#[OpenApi(tag = "Tag::Keys")]
impl KeysApi {
    /// Make a key.
    #[oai(path = "/auth/keys", method = "post")]
    async fn create(&self, caller: Caller, body: Body<CreateKey>) -> Result<Created, ApiError> {
        caller.require(Permission::ApiKeyCreate)?;
        let scopes = read_scopes(body.0.scopes.as_deref())?;
        let key = new_key();
        let stored = keys::create(
            &self.0.pool,
            &NewApiKey {
                id: ApiKeyId::generate(),
                key_hash: keys::hash_key(&key),
                prefix: key.chars().take(PREFIX_CHARACTERS).collect(),
                name: body.0.name,
                tenant_id: caller.tenant(),
                scopes,
                rate_limit: body.0.rate_limit,
                expires_at: None,
                created_by: caller.owner(),
            },
        )
        .await?;
        caller
            .audit(
                &self.0,
                "api_key.created",
                ("api_key", stored.id.to_string()),
                None,
            )
            .await;
        Ok(Created::Key(Json(KeyCreated {
            id: stored.id.0,
            key,
            prefix: stored.prefix,
            name: stored.name,
            tenant_id: stored.tenant_id.0,
            scopes: stored.scopes,
            rate_limit: stored.rate_limit,
            created_at: stored.created_at.into(),
            expires_at: stored.expires_at.into(),
        })))
    }

    /// List keys, newest first.
    #[oai(path = "/auth/keys", method = "get")]
    async fn list(
        &self,
        caller: Caller,
        /// Also those that were revoked.
        #[oai(default)]
        include_revoked: Query<bool>,
    ) -> Result<Json<KeyList>, ApiError> {
        caller.require(Permission::ApiKeyList)?;
        let found = keys::list(&self.0.pool, caller.tenant(), include_revoked.0).await?;
        let keys: Vec<KeyObject> = found
            .into_iter()
            .map(|key| KeyObject::of(key, &caller))
            .collect();
        Ok(Json(KeyList {
            total: keys.len(),
            keys,
        }))
    }

    /// Read a key.
    #[oai(path = "/auth/keys/:key_id", method = "get")]
    async fn get(&self, caller: Caller, key_id: Path<Uuid>) -> Result<Json<KeyObject>, ApiError> {
        caller.require(Permission::ApiKeyList)?;
        let key = keys::get(&self.0.pool, caller.tenant(), ApiKeyId(key_id.0))
            .await?
            .ok_or_else(not_found)?;
        Ok(Json(KeyObject::of(key, &caller)))
    }

    /// Revoke a key.
    #[oai(path = "/auth/keys/:key_id", method = "delete")]
    async fn revoke(&self, caller: Caller, key_id: Path<Uuid>) -> Result<NoContent, ApiError> {
        caller.require(Permission::ApiKeyRevoke)?;
        if key_id.0 == caller.principal().key.id.0 {
            return Err(ApiError::standard(
                StatusCode::BAD_REQUEST,
                "Cannot revoke your own API key",
            ));
        }
        if !keys::revoke(&self.0.pool, caller.tenant(), ApiKeyId(key_id.0)).await? {
            return Err(not_found());
        }
        self.0.keys.clear();
        caller
            .audit(
                &self.0,
                "api_key.revoked",
                ("api_key", key_id.0.to_string()),
                None,
            )
            .await;
        Ok(NoContent::Done)
    }

    /// Read the key of this request.
    #[oai(path = "/auth/me", method = "get")]
    async fn me(&self, caller: Caller) -> Json<CurrentKey> {
        let key = caller.principal().key.clone();
        Json(CurrentKey {
            id: key.id.0,
            prefix: key.prefix,
            name: key.name,
            tenant_id: key.tenant_id.0,
            scopes: key.scopes,
            rate_limit: key.rate_limit,
            created_at: key.created_at.into(),
            last_used_at: key.last_used_at.map(Into::into),
            expires_at: key.expires_at.into(),
        })
    }
}

fn not_found() -> ApiError {
    ApiError::not_found("API key not found")
}

fn read_scopes(asked: Option<&[String]>) -> Result<Vec<String>, ApiError> {
    let names = |scopes: &[KeyScope]| -> Vec<String> {
        scopes
            .iter()
            .map(|scope| scope.as_str().to_owned())
            .collect()
    };
    let Some(asked) = asked else {
        return Ok(names(&KeyScope::DEFAULT));
    };
    if asked.iter().all(|scope| KeyScope::parse(scope).is_some()) {
        return Ok(asked.to_vec());
    }
    let valid: Vec<String> = KeyScope::ALL
        .iter()
        .map(|scope| format!("'{}'", scope.as_str()))
        .collect();
    Err(ApiError::bad_request(format!(
        "Invalid scope. Valid scopes: [{}]",
        valid.join(", ")
    )))
}

/// `dk_` and 43 characters of URL-safe base64.
fn new_key() -> String {
    let mut bytes = [0; KEY_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    format!("dk_{}", URL_SAFE_NO_PAD.encode(bytes))
}

impl KeyObject {
    fn of(key: ApiKey, caller: &Caller) -> Self {
        Self {
            is_current: key.id == caller.principal().key.id,
            is_revoked: key.revoked_at.is_some(),
            id: key.id.0,
            prefix: key.prefix,
            name: key.name,
            tenant_id: key.tenant_id.0,
            scopes: key.scopes,
            rate_limit: key.rate_limit,
            created_at: key.created_at.into(),
            last_used_at: key.last_used_at.map(Into::into),
            expires_at: key.expires_at.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn keys_have_the_documented_form_and_differ() {
        let (one, other) = (new_key(), new_key());
        assert!(one.starts_with("dk_") && one.len() == 46 && one != other);
        assert!(
            one[3..]
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
    }

    #[test]
    fn unknown_scopes_are_refused_with_the_list() {
        assert_eq!(
            read_scopes(None).unwrap(),
            ["jobs:read", "jobs:write", "realtime"]
        );
        let error = read_scopes(Some(&["root".to_owned()])).unwrap_err();
        assert_eq!(
            error.message(),
            "Invalid scope. Valid scopes: ['jobs:read', 'jobs:write', 'realtime', 'webhooks', 'admin']"
        );
    }
}
