//! API keys, rate limits and the audit log.

use dalston_schema::db::audit::{self, AuditFilter, NewAuditEvent};
use dalston_schema::db::keys::{self, NewApiKey};
use dalston_schema::db::rate_limits::{self, Counted};
use dalston_schema::{ApiKeyId, TenantId};
use dalston_test_postgres::TestDatabase;
use serde_json::json;

fn key(text: &str) -> NewApiKey {
    NewApiKey {
        id: ApiKeyId::generate(),
        key_hash: keys::hash_key(text),
        prefix: text.chars().take(10).collect(),
        name: "laptop".to_owned(),
        tenant_id: TenantId::DEFAULT,
        scopes: vec!["jobs:read".to_owned(), "jobs:write".to_owned()],
        rate_limit: Some(60),
        expires_at: None,
        created_by: None,
    }
}

#[tokio::test]
async fn a_key_is_found_by_its_hash_until_it_is_revoked() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let new = key("dk_one");
    let created = keys::create(&pool, &new).await.unwrap();
    assert_eq!(created.last_used_at, None);
    assert_eq!(created.expires_at.to_rfc3339(), "2099-12-31T23:59:59+00:00");
    let found = keys::find_by_hash(&pool, &new.key_hash)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.id, new.id);
    let used = found.last_used_at.unwrap();
    let again = keys::find_by_hash(&pool, &new.key_hash)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(again.last_used_at, Some(used), "noted once a minute");

    assert!(
        keys::revoke(&pool, TenantId::DEFAULT, new.id)
            .await
            .unwrap()
    );
    assert!(
        keys::find_by_hash(&pool, &new.key_hash)
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        keys::list(&pool, TenantId::DEFAULT, false)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        keys::list(&pool, TenantId::DEFAULT, true)
            .await
            .unwrap()
            .len(),
        1
    );
    let elsewhere = TenantId::generate();
    assert!(!keys::revoke(&pool, elsewhere, new.id).await.unwrap());
    assert!(keys::get(&pool, elsewhere, new.id).await.unwrap().is_none());
}

#[tokio::test]
async fn an_expired_key_does_not_work() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let mut old = key("dk_old");
    old.expires_at = Some(chrono::Utc::now() - chrono::Duration::seconds(1));
    keys::create(&pool, &old).await.unwrap();
    assert!(
        keys::find_by_hash(&pool, &old.key_hash)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn several_servers_starting_at_once_make_one_administrator_key() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let candidates: Vec<_> = (0..6).map(|n| key(&format!("dk_admin{n}"))).collect();
    let made =
        futures_util::future::join_all(candidates.iter().map(|key| keys::ensure_admin(&pool, key)))
            .await
            .into_iter()
            .filter(|made| *made.as_ref().unwrap())
            .count();
    assert_eq!(made, 1);
    let stored: i64 = sqlx::query_scalar("select count(*) from api_keys")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(stored, 1);
}

#[tokio::test]
async fn the_rate_limit_slides_with_the_clock() {
    let mut database = TestDatabase::create().await;
    let counted = Counted::Key(ApiKeyId::generate());
    database.set_clock("2030-01-01 12:00:00Z").await;
    let all = futures_util::future::join_all(
        (0..12).map(|_| rate_limits::take(&database.pool, counted, 10)),
    )
    .await;
    let allowed = all
        .iter()
        .filter(|decision| decision.as_ref().unwrap().allowed)
        .count();
    assert_eq!(allowed, 10, "exact under concurrency");

    // Half of last minute's ten still count: five more may go.
    database.set_clock("2030-01-01 12:01:30Z").await;
    let mut allowed = 0;
    while rate_limits::take(&database.pool, counted, 10)
        .await
        .unwrap()
        .allowed
    {
        allowed += 1;
    }
    assert_eq!(allowed, 5);
    let refused = rate_limits::take(&database.pool, counted, 10)
        .await
        .unwrap();
    assert_eq!(refused.remaining, 0);
    assert!((1..=60).contains(&refused.reset_seconds));

    // After the time it named there is room.
    let later = 30 + refused.reset_seconds;
    database
        .set_clock(&format!("2030-01-01 12:01:{later}Z"))
        .await;
    let decision = rate_limits::take(&database.pool, counted, 10)
        .await
        .unwrap();
    assert!(decision.allowed, "{refused:?} then {decision:?}");

    let other = Counted::Tenant(TenantId::DEFAULT);
    let decision = rate_limits::take(&database.pool, other, 600).await.unwrap();
    assert_eq!((decision.allowed, decision.remaining), (true, 599));
}

#[tokio::test]
async fn the_audit_log_is_filtered_and_paged_in_both_directions() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    for n in 0..5 {
        let event = NewAuditEvent {
            correlation_id: Some(format!("req_{n}")),
            tenant_id: Some(TenantId::DEFAULT),
            actor_type: "api_key".to_owned(),
            actor_id: "dk_abc1234".to_owned(),
            action: if n % 2 == 0 {
                "job.created"
            } else {
                "job.deleted"
            }
            .to_owned(),
            resource_type: "job".to_owned(),
            resource_id: n.to_string(),
            detail: Some(json!({"n": n})),
            ip_address: None,
            user_agent: None,
        };
        audit::append(&pool, &event).await.unwrap();
    }
    let mut filter = AuditFilter {
        action: Some("job.created".to_owned()),
        limit: 2,
        ..AuditFilter::default()
    };
    let ids = |events: &[audit::AuditEvent]| -> Vec<String> {
        events
            .iter()
            .map(|event| event.resource_id.clone())
            .collect()
    };
    let newest = audit::list(&pool, &filter).await.unwrap();
    assert_eq!(ids(&newest), ["4", "2"]);
    filter.after = Some(newest[1].id);
    assert_eq!(ids(&audit::list(&pool, &filter).await.unwrap()), ["0"]);
    filter.after = None;
    filter.ascending = true;
    assert_eq!(ids(&audit::list(&pool, &filter).await.unwrap()), ["0", "2"]);
    assert_eq!(newest[0].detail, Some(json!({"n": 4})));
}
