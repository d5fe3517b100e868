use dalston_api::SecurityMode;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Server, json, with_sample};

#[tokio::test]
async fn a_key_is_asked_for_and_checked() {
    let server = Server::start().await;
    let ask = |key: Option<(&'static str, String)>| {
        let request = server.bare(Method::GET, "/auth/me");
        key.into_iter().fold(request, |request, (name, value)| {
            request.header(name, value)
        })
    };
    let response = ask(None).send().await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    for (header, message) in [
        (None, "Missing API key"),
        (
            Some(("authorization", "Bearer dk_nobody".to_owned())),
            "Invalid API key",
        ),
        (
            Some(("xi-api-key", "password".to_owned())),
            "Invalid API key",
        ),
    ] {
        let (status, body) = json(ask(header)).await;
        assert_eq!(
            (status, body),
            (
                StatusCode::UNAUTHORIZED,
                json!({"error": {"code": "unauthorized", "message": message}})
            )
        );
    }
    let (status, body) = json(ask(Some(("authorization", "Bearer sk-openai".to_owned())))).await;
    assert_eq!(
        (status, &body["error"]["code"], &body["error"]["type"]),
        (
            StatusCode::UNAUTHORIZED,
            &json!("invalid_api_key"),
            &json!("authentication_error")
        )
    );
    for header in [
        ("authorization", format!("Bearer {}", server.key)),
        ("xi-api-key", server.key.clone()),
    ] {
        let (status, me) = json(ask(Some(header))).await;
        assert_eq!((status, &me["scopes"]), (StatusCode::OK, &json!(["admin"])));
    }
}

#[tokio::test]
async fn scopes_decide_what_a_key_may_do() {
    let server = Server::start().await;
    let reader = server.new_key(&["jobs:read"], None).await;
    let (status, body) = json(
        server
            .bare(Method::POST, "/v1/audio/transcriptions")
            .bearer_auth(&reader)
            .multipart(with_sample(&[])),
    )
    .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(
        body,
        json!({"detail": "Missing required permission: job:create", "code": "authorization_failed", "required_permission": "job:create"})
    );
    let writer = server.new_key(&["jobs:write"], None).await;
    for (method, path, key, expected) in [
        (Method::GET, "/v1/audio/transcriptions", &reader, 200),
        (Method::GET, "/v1/audio/transcriptions", &writer, 403),
        (Method::GET, "/v1/models", &reader, 200),
        (Method::GET, "/auth/keys", &reader, 403),
        (Method::GET, "/auth/me", &writer, 200),
    ] {
        let (status, _) = json(server.bare(method, path).bearer_auth(key)).await;
        assert_eq!(status.as_u16(), expected, "{path}");
    }
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked() {
    let server = Server::start().await;
    let create = |body: Value| json(server.request(Method::POST, "/auth/keys").json(&body));
    let (status, made) = create(json!({"name": "laptop"})).await;
    assert_eq!(
        (status, &made["scopes"]),
        (
            StatusCode::CREATED,
            &json!(["jobs:read", "jobs:write", "realtime"])
        )
    );
    let key = made["key"].as_str().unwrap().to_owned();
    assert_eq!(made["prefix"].as_str().unwrap(), &key[..10]);
    assert!(
        made["expires_at"]
            .as_str()
            .unwrap()
            .starts_with("2099-12-31T23:59:59"),
        "{made}"
    );
    for wrong in [
        json!({}),
        json!({"name": ""}),
        json!({"name": "x", "rate_limit": 0}),
    ] {
        assert_eq!(create(wrong).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    }
    assert_eq!(
        create(json!({"name": "x", "scopes": ["root"]})).await.0,
        StatusCode::BAD_REQUEST
    );

    let (_, listed) = server.get("/auth/keys").await;
    assert_eq!(
        (listed["total"].as_i64(), &listed["keys"][0]["name"]),
        (Some(2), &json!("laptop"))
    );
    let own = listed["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["is_current"] == true)
        .unwrap();
    let (status, body) = server
        .delete(&format!("/auth/keys/{}", own["id"].as_str().unwrap()))
        .await;
    assert_eq!(
        (status, &body["error"]["message"]),
        (
            StatusCode::BAD_REQUEST,
            &json!("Cannot revoke your own API key")
        )
    );

    let me = || json(server.bare(Method::GET, "/auth/me").bearer_auth(&key));
    assert_eq!(me().await.0, StatusCode::OK);
    let path = format!("/auth/keys/{}", made["id"].as_str().unwrap());
    assert_eq!(
        server.delete(&path).await,
        (StatusCode::NO_CONTENT, Value::Null)
    );
    assert_eq!(me().await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(server.get("/auth/keys").await.1["total"], 1);
    assert_eq!(
        server.get("/auth/keys?include_revoked=true").await.1["total"],
        2
    );
    assert_eq!(server.get(&path).await.1["is_revoked"], true);
    let actions: Vec<String> = sqlx::query_scalar("select action from audit_log order by id")
        .fetch_all(&server.pool)
        .await
        .unwrap();
    assert_eq!(actions, ["api_key.created", "api_key.revoked"]);
}

#[tokio::test]
async fn a_key_and_a_tenant_may_ask_only_so_often() {
    let server = Server::configured(|config| config.limits.requests_per_minute = 2).await;
    let limited = server.new_key(&["jobs:read"], Some(3)).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let response = server
            .bare(Method::GET, "/auth/me")
            .bearer_auth(&limited)
            .send()
            .await
            .unwrap();
        seen.push((
            response.status().as_u16(),
            response.headers().contains_key("retry-after"),
        ));
    }
    assert_eq!(
        seen,
        [(200, false), (200, false), (200, false), (429, true)]
    );

    let delete = || {
        server
            .request(
                Method::DELETE,
                "/v1/audio/transcriptions/01890000-0000-7000-8000-000000000001",
            )
            .send()
    };
    for _ in 0..2 {
        assert_eq!(delete().await.unwrap().status(), StatusCode::NOT_FOUND);
    }
    let refused = delete().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    for name in [
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
        "retry-after",
    ] {
        assert!(refused.headers().contains_key(name), "{name}");
    }
    assert_eq!(
        refused.json::<Value>().await.unwrap(),
        json!({"error": {"code": "rate_limit_exceeded", "message": "Rate limit exceeded"}})
    );
    // Reading is not counted.
    assert_eq!(
        server.get("/v1/audio/transcriptions").await.0,
        StatusCode::OK
    );
}

#[tokio::test]
async fn without_security_everybody_is_administrator() {
    let server = Server::configured(|config| config.security_mode = SecurityMode::None).await;
    let (status, me) = json(server.bare(Method::GET, "/auth/me")).await;
    assert_eq!(
        (status, me["prefix"].as_str()),
        (StatusCode::OK, Some("dk_dev0000"))
    );
    let (status, _) = json(
        server
            .bare(Method::POST, "/v1/audio/transcriptions")
            .multipart(with_sample(&[])),
    )
    .await;
    assert_eq!(status, StatusCode::CREATED);
    // But not a page of another site, which the browser of somebody near asks for.
    let own = format!("http://{}", server.address);
    for (origin, expected) in [
        ("https://page.example", StatusCode::FORBIDDEN),
        ("null", StatusCode::FORBIDDEN),
        (own.as_str(), StatusCode::OK),
    ] {
        let asked = server.bare(Method::GET, "/auth/me");
        let (status, body) = json(asked.header("origin", origin)).await;
        assert_eq!(status, expected, "{origin}: {body}");
    }
}
