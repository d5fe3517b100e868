use std::path::Path;

use reqwest::Method;
use serde_json::Value;

use crate::server::{Server, json};

/// The committed document; `DALSTON_UPDATE_OPENAPI=1 cargo test -p dalston-api document` writes it anew.
#[tokio::test]
async fn the_openapi_document_is_the_committed_one() {
    let server = Server::start().await;
    let (_, document) = json(server.bare(Method::GET, "/openapi.json")).await;
    let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    if std::env::var_os("DALSTON_UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "api/openapi.json is not what the API serves; DALSTON_UPDATE_OPENAPI=1 writes it anew"
    );
}

#[tokio::test]
async fn uploads_answers_and_keys_are_documented() {
    let server = Server::start().await;
    let (_, document) = json(server.bare(Method::GET, "/openapi.json")).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let submit = &document["paths"]["/v1/audio/transcriptions"]["post"];
    let form = &submit["requestBody"]["content"]["multipart/form-data"]["schema"]["$ref"];
    let name = form.as_str().unwrap().rsplit('/').next().unwrap();
    let file = &document["components"]["schemas"][name]["properties"]["file"];
    assert_eq!(
        (file["type"].as_str(), file["format"].as_str()),
        (Some("string"), Some("binary"))
    );
    assert!(submit["responses"]["201"].is_object() && submit["responses"]["200"].is_object());
    assert_eq!(submit["security"].as_array().unwrap().len(), 2);
    assert!(document["components"]["securitySchemes"]["Bearer"].is_object());
    for path in ["/docs", "/redoc"] {
        let page = server.bare(Method::GET, path).send().await.unwrap();
        assert_eq!(page.status().as_u16(), 200);
        assert!(page.text().await.unwrap().contains("<html"), "{path}");
    }
    let paths: &serde_json::Map<String, Value> = document["paths"].as_object().unwrap();
    assert!(paths.contains_key("/v1/audio/translations") && paths.contains_key("/v1/models/{id}"));
}
