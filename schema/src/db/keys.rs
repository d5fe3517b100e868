//! API keys: made once, stored hashed, looked up by hash.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::statement::{self, Statement};
use super::{DbError, PgPool};
use crate::ids::{ApiKeyId, TenantId};

/// A key to be stored. The key itself is never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// SHA-256 of the whole key, 64 hex digits ([`hash_key`]).
    pub key_hash: String,
    /// First ten characters of the key, shown to people.
    pub prefix: String,
    /// Name shown to people.
    pub name: String,
    /// The tenant it acts for.
    pub tenant_id: TenantId,
    /// What it may do, for example `jobs:read`.
    pub scopes: Vec<String>,
    /// Requests a minute; `None` is unlimited.
    pub rate_limit: Option<i32>,
    /// When it stops working; `None` stands for the end of 2099.
    pub expires_at: Option<DateTime<Utc>>,
    /// The key that made it.
    pub created_by: Option<ApiKeyId>,
}

/// A stored key.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// First ten characters of the key.
    pub prefix: String,
    /// Name shown to people.
    pub name: String,
    /// The tenant it acts for.
    pub tenant_id: TenantId,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Requests a minute; `None` is unlimited.
    pub rate_limit: Option<i32>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it stops working.
    pub expires_at: DateTime<Utc>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// The key that made it.
    pub created_by_key_id: Option<ApiKeyId>,
}

const COLUMNS: &str = "id, prefix, name, tenant_id, scopes, rate_limit, created_at, last_used_at, expires_at, revoked_at, \
     created_by_key_id";

/// SHA-256 of a whole key, 64 lower-case hex digits.
#[must_use]
pub fn hash_key(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

/// Stores a key.
///
/// # Errors
/// Database trouble; a hash that exists already is a unique violation.
pub async fn create(pool: &PgPool, key: &NewApiKey) -> Result<ApiKey, DbError> {
    statement::rows("select * from create_api_key($1, $2, $3, $4, $5, $6, $7, $8, $9)")
        .bind(key.id)
        .bind(&key.key_hash)
        .bind(&key.prefix)
        .bind(&key.name)
        .bind(key.tenant_id)
        .bind(&key.scopes)
        .bind(key.rate_limit)
        .bind(key.expires_at)
        .bind(key.created_by)
        .one(pool)
        .await
}

/// The valid key with this hash (not revoked, not expired), and notes that it was used, at most once a minute.
///
/// # Errors
/// Database trouble only.
pub async fn find_by_hash(pool: &PgPool, key_hash: &str) -> Result<Option<ApiKey>, DbError> {
    statement::rows("select * from use_api_key($1)")
        .bind(key_hash)
        .optional(pool)
        .await
}

/// The keys of a tenant, newest first.
///
/// # Errors
/// Database trouble only.
pub async fn list(
    pool: &PgPool,
    tenant: TenantId,
    include_revoked: bool,
) -> Result<Vec<ApiKey>, DbError> {
    statement::rows(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from api_keys where tenant_id = $1 and ($2 or revoked_at is null)
          order by created_at desc, id desc"
    )))
    .bind(tenant)
    .bind(include_revoked)
    .all(pool)
    .await
}

/// One key of a tenant.
///
/// # Errors
/// Database trouble only.
pub async fn get(pool: &PgPool, tenant: TenantId, id: ApiKeyId) -> Result<Option<ApiKey>, DbError> {
    statement::rows(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from api_keys where tenant_id = $1 and id = $2"
    )))
    .bind(tenant)
    .bind(id)
    .optional(pool)
    .await
}

/// Revokes a key; false when the tenant has no such key. Revoking twice keeps the first time.
///
/// # Errors
/// Database trouble only.
pub async fn revoke(pool: &PgPool, tenant: TenantId, id: ApiKeyId) -> Result<bool, DbError> {
    statement::values(
        "with revoked as (
           update api_keys set revoked_at = coalesce(revoked_at, dalston_now())
            where tenant_id = $1 and id = $2 returning 1)
         select exists (select from revoked)",
    )
    .bind(tenant)
    .bind(id)
    .one(pool)
    .await
}

/// Stores `key` if no key that is not revoked exists, safe when several processes start at once; true when it was
/// stored. This is how the first administrator key comes to be.
///
/// # Errors
/// Database trouble only.
pub async fn ensure_admin(pool: &PgPool, key: &NewApiKey) -> Result<bool, DbError> {
    statement::values("select ensure_admin_key($1, $2, $3, $4, $5, $6)")
        .bind(key.id)
        .bind(&key.key_hash)
        .bind(&key.prefix)
        .bind(&key.name)
        .bind(key.tenant_id)
        .bind(&key.scopes)
        .one(pool)
        .await
}
