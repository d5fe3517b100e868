//! Requests a minute, per key and per tenant, counted in the database so that every API process sees the same.

use super::statement::{self, Statement};
use super::{DbError, PgPool};
use crate::ids::{ApiKeyId, TenantId};

/// Whose requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// One key's, over all requests.
    Key(ApiKeyId),
    /// One tenant's, over the requests that cost something.
    Tenant(TenantId),
}

/// Whether a request may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RateDecision {
    /// It may.
    pub allowed: bool,
    /// Requests left in the window, after this one.
    pub remaining: i32,
    /// Seconds until at least one more request is allowed (refused) or until the window is empty (allowed), 1–60.
    pub reset_seconds: i32,
}

/// Counts one request against `limit` a minute. The window slides: the previous minute counts by the share of it that
/// still lies within the last 60 seconds. A refused request is not counted.
///
/// # Errors
/// Database trouble only.
pub async fn take(pool: &PgPool, counted: Counted, limit: i32) -> Result<RateDecision, DbError> {
    let subject = match counted {
        Counted::Key(ApiKeyId(id)) => format!("key:{id}"),
        Counted::Tenant(TenantId(id)) => format!("tenant:{id}"),
    };
    statement::rows("select allowed, remaining, reset_seconds from take_request($1, $2)")
        .bind(subject)
        .bind(limit)
        .one(pool)
        .await
}
