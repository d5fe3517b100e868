//! The audit log: who did what to which resource. Append-only.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::statement::{self, Statement};
use super::{DbError, PgPool};
use crate::ids::TenantId;

/// Something worth remembering.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAuditEvent {
    /// `X-Request-ID` of the request.
    pub correlation_id: Option<String>,
    /// Tenant concerned.
    pub tenant_id: Option<TenantId>,
    /// `api_key`, `session_token` or `system`.
    pub actor_type: String,
    /// Key prefix or id of who did it.
    pub actor_id: String,
    /// For example `job.created`.
    pub action: String,
    /// For example `job`.
    pub resource_type: String,
    /// Id of the resource.
    pub resource_id: String,
    /// More, as JSON.
    pub detail: Option<Value>,
    /// Address of the client.
    pub ip_address: Option<String>,
    /// `User-Agent` of the client.
    pub user_agent: Option<String>,
}

impl NewAuditEvent {
    /// Something that no caller did: `actor` is the process or worker.
    #[must_use]
    pub fn by_the_system(
        actor: String,
        action: &str,
        resource: (&str, &str),
        detail: Value,
    ) -> Self {
        Self {
            correlation_id: None,
            tenant_id: None,
            actor_type: "system".to_owned(),
            actor_id: actor,
            action: action.to_owned(),
            resource_type: resource.0.to_owned(),
            resource_id: resource.1.to_owned(),
            detail: Some(detail),
            ip_address: None,
            user_agent: None,
        }
    }
}

/// A remembered event.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct AuditEvent {
    /// Grows; also the cursor.
    pub id: i64,
    /// When.
    pub timestamp: DateTime<Utc>,
    /// `X-Request-ID` of the request.
    pub correlation_id: Option<String>,
    /// Tenant concerned.
    pub tenant_id: Option<TenantId>,
    /// `api_key`, `session_token` or `system`.
    pub actor_type: String,
    /// Key prefix or id of who did it.
    pub actor_id: String,
    /// For example `job.created`.
    pub action: String,
    /// For example `job`.
    pub resource_type: String,
    /// Id of the resource.
    pub resource_id: String,
    /// More, as JSON.
    pub detail: Option<Value>,
    /// Address of the client.
    pub ip_address: Option<String>,
    /// `User-Agent` of the client.
    pub user_agent: Option<String>,
}

/// Which events to list; `None` does not filter.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Tenant concerned.
    pub tenant_id: Option<TenantId>,
    /// Type of the resource.
    pub resource_type: Option<String>,
    /// Id of the resource.
    pub resource_id: Option<String>,
    /// Action.
    pub action: Option<String>,
    /// Who did it.
    pub actor_id: Option<String>,
    /// `X-Request-ID`.
    pub correlation_id: Option<String>,
    /// At or after.
    pub start_time: Option<DateTime<Utc>>,
    /// Before.
    pub end_time: Option<DateTime<Utc>>,
    /// Continue after this id, in the direction of the list.
    pub after: Option<i64>,
    /// Oldest first instead of newest first.
    pub ascending: bool,
    /// Most rows.
    pub limit: i64,
}

/// Remembers an event.
///
/// # Errors
/// Database trouble only.
pub async fn append(pool: &PgPool, event: &NewAuditEvent) -> Result<(), DbError> {
    let insert = statement::plain(
        "insert into audit_log (timestamp, correlation_id, tenant_id, actor_type, actor_id, action, resource_type,
                                resource_id, detail, ip_address, user_agent)
         values (dalston_now(), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(&event.correlation_id)
    .bind(event.tenant_id)
    .bind(&event.actor_type)
    .bind(&event.actor_id)
    .bind(&event.action)
    .bind(&event.resource_type)
    .bind(&event.resource_id)
    .bind(&event.detail)
    .bind(&event.ip_address)
    .bind(&event.user_agent)
;
    statement::run(insert, pool).await
}

/// Lists events.
///
/// # Errors
/// Database trouble only.
pub async fn list(pool: &PgPool, filter: &AuditFilter) -> Result<Vec<AuditEvent>, DbError> {
    const MATCHING: &str = "select id, timestamp, correlation_id, tenant_id, actor_type, actor_id, action, resource_type,
                resource_id, detail, ip_address, user_agent
           from audit_log
          where ($1::uuid is null or tenant_id = $1) and ($2::text is null or resource_type = $2)
            and ($3::text is null or resource_id = $3) and ($4::text is null or action = $4)
            and ($5::text is null or actor_id = $5) and ($6::text is null or correlation_id = $6)
            and ($7::timestamptz is null or timestamp >= $7) and ($8::timestamptz is null or timestamp < $8)";
    let order = if filter.ascending {
        "and ($9::bigint is null or id > $9) order by id asc limit $10"
    } else {
        "and ($9::bigint is null or id < $9) order by id desc limit $10"
    };
    statement::rows(sqlx::AssertSqlSafe(format!("{MATCHING} {order}")))
        .bind(filter.tenant_id)
        .bind(&filter.resource_type)
        .bind(&filter.resource_id)
        .bind(&filter.action)
        .bind(&filter.actor_id)
        .bind(&filter.correlation_id)
        .bind(filter.start_time)
        .bind(filter.end_time)
        .bind(filter.after)
        .bind(filter.limit)
        .all(pool)
        .await
}
