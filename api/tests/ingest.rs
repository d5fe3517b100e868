use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{SAMPLE, Server, eventually, texts};

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_leaves_nothing() {
    let server = Server::start().await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: multipart/form-data; boundary=B\r\nContent-Length: 90000000\r\n\r\n\
         --B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n",
        server.key
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&vec![7; 12 << 20]).await.unwrap();
    eventually("some of it is on disk", async || {
        !server.objects().is_empty()
    })
    .await;
    drop(socket);
    eventually("the store is empty", async || server.objects().is_empty()).await;
    let jobs: i64 = sqlx::query_scalar("select count(*) from jobs")
        .fetch_one(&server.pool)
        .await
        .unwrap();
    assert_eq!(jobs, 0);
}

#[tokio::test]
async fn an_upload_beyond_the_limit_is_refused_and_leaves_nothing() {
    let server = Server::configured(|config| config.limits.upload_bytes = 1 << 20).await;
    let part = reqwest::multipart::Part::bytes(vec![0; 3 << 20]).file_name("long.wav");
    let (status, body) = server.submit(texts(&[]).part("file", part)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
    assert_eq!(
        body["error"]["message"],
        "File too large. Maximum size is 1 MiB."
    );
    eventually("the store is empty", async || server.objects().is_empty()).await;
}

/// A file server on loopback: `/talk.wav` is the sample, `/page` a page, `/slow` never ends, the rest is missing.
async fn files() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let n = socket.read(&mut request).await.unwrap_or(0);
                let line = String::from_utf8_lossy(&request[..n]).into_owned();
                let answer = |status: &str, kind: &str, body: &[u8]| {
                    let head = format!(
                        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        body.len()
                    );
                    [head.as_bytes(), body].concat()
                };
                let bytes = match line.split(' ').nth(1).unwrap_or_default() {
                    "/talk.wav" => answer("200 OK", "audio/wav", &std::fs::read(SAMPLE).unwrap()),
                    "/moved" => b"HTTP/1.1 302 Found\r\nLocation: /talk.wav\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
                    "/inside" => b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
                    "/page" => answer("200 OK", "text/html", b"<html>"),
                    "/slow" => {
                        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\n\r\nRIFF").await;
                        let _ = socket.read(&mut request).await;
                        return;
                    }
                    _ => answer("404 Not Found", "text/plain", b"no"),
                };
                let _ = socket.write_all(&bytes).await;
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn audio_is_fetched_from_a_url() {
    let (server, files) = (Server::start().await, files().await);
    for path in ["/talk.wav", "/moved"] {
        let (status, job) = server
            .submit(texts(&[]).text("audio_url", format!("{files}{path}")))
            .await;
        assert_eq!(status, StatusCode::CREATED, "{job}");
        assert_eq!(job["display_name"], path.trim_start_matches('/'));
    }
    // A form without a file may be URL-encoded.
    let request = server.request(reqwest::Method::POST, "/v1/audio/transcriptions");
    let body = format!("audio_url={files}/talk.wav&language=en");
    let request = request
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body);
    let (status, job) = crate::server::json(request).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
}

#[tokio::test]
async fn a_url_that_cannot_be_fetched_is_refused_with_the_reason() {
    let files = files().await;
    let server = Server::configured(|config| {
        config.url_ingest.timeout = Duration::from_millis(700);
    })
    .await;
    let submit = async |url: String| server.submit(texts(&[]).text("audio_url", url)).await;
    let (status, body) = submit(format!("{files}/missing.wav?token=secret")).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::BAD_GATEWAY, &json!("error"))
    );
    let message = &body["error"]["message"];
    assert_eq!(
        (&message["code"], &message["upstream_status"]),
        (&json!("upstream_fetch_failed"), &json!("404"))
    );
    assert_eq!(message["upstream_url"], format!("{files}/missing.wav"));
    let private = "URLs pointing to private or internal network addresses are not allowed";
    for (url, expected) in [
        ("http://192.168.1.1/a.wav".to_owned(), private),
        ("http://[::ffff:10.0.0.1]/a.wav".to_owned(), private),
        (format!("{files}/inside"), private),
        (
            "ftp://example.com/a.wav".to_owned(),
            "URL scheme must be http or https, got ftp",
        ),
        ("nonsense".to_owned(), "Invalid audio_url"),
        (
            format!("{files}/page"),
            "Unsupported content type 'text/html'",
        ),
        (
            format!("{files}/slow"),
            "audio_url could not be fetched within",
        ),
    ] {
        let (status, body) = submit(url.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{url}: {body}");
        assert!(
            body["error"]["message"]
                .as_str()
                .unwrap()
                .starts_with(expected),
            "{url}: {body}"
        );
    }
    eventually("the store is empty", async || server.objects().is_empty()).await;
}

#[tokio::test]
async fn a_file_larger_than_allowed_is_not_fetched() {
    let files = files().await;
    let server = Server::configured(|config| config.url_ingest.max_bytes = 1000).await;
    let (status, body) = server
        .submit(texts(&[]).text("audio_url", format!("{files}/talk.wav")))
        .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
}
