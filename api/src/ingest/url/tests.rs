#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server on loopback that answers every request with what `answer` makes of its first line, and counts them.
async fn serve(
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let n = socket.read(&mut request).await.unwrap_or(0);
                let first = String::from_utf8_lossy(&request[..n])
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                let _ = socket.write_all(answer(&first).as_bytes()).await;
            });
        }
    });
    (address, served)
}

fn fetcher(reach: Reach) -> Fetcher {
    Fetcher::new(UrlIngest {
        reach,
        timeout: Duration::from_secs(5),
        ..UrlIngest::default()
    })
    .unwrap()
}

fn redirect(to: &str) -> String {
    format!(
        "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

#[tokio::test]
async fn nothing_is_sent_to_a_private_address() {
    let (address, served) = serve(|_| redirect("/")).await;
    let fetcher = fetcher(Reach::Public);
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"] {
        let url = Url::parse(&format!("http://{host}:{}/a.wav", address.port())).unwrap();
        let refused = fetcher.request(&url).await.unwrap_err();
        assert!(
            matches!(refused, UrlError::Refused(Refusal::PrivateAddress)),
            "{host}: {refused}"
        );
    }
    assert_eq!(served.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn every_hop_of_a_redirect_is_judged() {
    for target in [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "file:///etc/passwd",
        "http://0xa9fea9fe/",
    ] {
        let (address, served) = serve(move |_| redirect(target)).await;
        let url = Url::parse(&format!("http://{address}/a.wav")).unwrap();
        let refused = fetcher(Reach::PublicAndLoopback)
            .request(&url)
            .await
            .unwrap_err();
        assert!(
            matches!(refused, UrlError::Refused(_)),
            "{target}: {refused}"
        );
        assert_eq!(served.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn redirects_end_after_ten_hops() {
    let (address, served) = serve(|_| redirect("/again")).await;
    let url = Url::parse(&format!("http://{address}/a.wav")).unwrap();
    let refused = fetcher(Reach::PublicAndLoopback)
        .request(&url)
        .await
        .unwrap_err();
    assert!(matches!(refused, UrlError::Redirects), "{refused}");
    assert_eq!(served.load(Ordering::SeqCst), MAX_REDIRECTS + 1);
}

/// Answers a public address first and a private one afterwards, as an attacker's name server would.
struct Rebinding {
    answers: Vec<SocketAddr>,
    asked: AtomicUsize,
}

impl Lookup for Rebinding {
    fn lookup(&self, _name: String) -> Looking {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers[turn.min(self.answers.len() - 1)];
        Box::pin(async move { Ok(vec![answer]) })
    }
}

#[tokio::test]
async fn a_name_is_resolved_once_and_the_judged_address_is_the_one_connected_to() {
    let (address, served) =
        serve(|_| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()).await;
    let limits = UrlIngest {
        reach: Reach::PublicAndLoopback,
        timeout: Duration::from_secs(5),
        ..UrlIngest::default()
    };
    // The second answer would lead elsewhere; it is never asked for.
    let names = Arc::new(Rebinding {
        answers: vec![
            SocketAddr::from(([127, 0, 0, 1], 0)),
            SocketAddr::from(([10, 0, 0, 1], 0)),
        ],
        asked: AtomicUsize::new(0),
    });
    let fetcher = Fetcher::resolving_with(limits, names.clone()).unwrap();
    let url = Url::parse(&format!(
        "http://rebinding.example:{}/a.wav",
        address.port()
    ))
    .unwrap();
    fetcher.request(&url).await.unwrap();
    assert_eq!(
        (
            names.asked.load(Ordering::SeqCst),
            served.load(Ordering::SeqCst)
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_refused() {
    let names = Arc::new(Rebinding {
        answers: vec![SocketAddr::from(([192, 168, 1, 1], 0))],
        asked: AtomicUsize::new(0),
    });
    let fetcher = Fetcher::resolving_with(UrlIngest::default(), names.clone()).unwrap();
    let refused = fetcher
        .request(&Url::parse("https://inside.example/a.wav").unwrap())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, UrlError::Refused(Refusal::PrivateAddress)),
        "{refused}"
    );
    assert_eq!(names.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_upstream_error_is_reported_without_the_query() {
    let (address, _) =
        serve(|_| "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()).await;
    let url = Url::parse(&format!("http://{address}/a.wav?token=secret")).unwrap();
    let error = fetcher(Reach::PublicAndLoopback)
        .request(&url)
        .await
        .unwrap_err()
        .into_standard();
    assert_eq!(error.status_code(), StatusCode::BAD_GATEWAY);
    let text = error.to_string();
    assert!(
        text.contains("upstream_fetch_failed") && text.contains("\"upstream_status\":\"404\""),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn plain_http_is_upgraded_on_its_usual_port_only() {
    for (text, parsed) in [
        ("http://example.com/a.wav", "https://example.com/a.wav"),
        (
            "http://example.com:8080/a.wav",
            "http://example.com:8080/a.wav",
        ),
        (" https://example.com/a.wav ", "https://example.com/a.wav"),
    ] {
        assert_eq!(parse(text, Reach::Public).unwrap().as_str(), parsed);
    }
    assert!(matches!(
        parse("not a url", Reach::Public),
        Err(UrlError::Invalid(_))
    ));
}

#[test]
fn content_types_are_judged_with_the_file_name() {
    for (content_type, name, accepted) in [
        ("audio/mpeg", "x", true),
        ("video/mp4", "x", true),
        ("application/octet-stream", "x.wav", true),
        ("application/octet-stream", "x.zip", false),
        ("", "x.flac", true),
        ("text/html", "x.wav", false),
        ("video/x-flv", "x.mp4", false),
    ] {
        assert_eq!(
            check_content_type(content_type, name).is_ok(),
            accepted,
            "{content_type} {name}"
        );
    }
}
