use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

use crate::server::{PATIENCE, Server};
use crate::worker::Worker;

/// The events of a stream that has ended: id, type and data.
async fn read(response: Response) -> Vec<(i64, String, Value)> {
    let text = tokio::time::timeout(PATIENCE, response.text())
        .await
        .expect("the stream ends")
        .unwrap();
    text.split("\n\n")
        .filter_map(|block| {
            let field = |name: &str| {
                block
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(str::trim)
            };
            let data = serde_json::from_str(field("data:")?).unwrap();
            Some((
                field("id:")?.parse().unwrap(),
                field("event:")?.to_owned(),
                data,
            ))
        })
        .collect()
}

#[tokio::test]
async fn a_stream_follows_a_job_to_its_end_and_can_be_replayed() {
    let server = Server::start().await;
    let id = server.new_job().await;
    let path = format!("/v1/audio/transcriptions/{id}/events");
    let live = server.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(live.headers()["content-type"], "text/event-stream");
    let worker = Worker::register(&server.pool).await;
    let ((), live) = tokio::join!(worker.work(&server.pool), read(live));
    let kinds: Vec<_> = live.iter().map(|(_, kind, _)| kind.as_str()).collect();
    assert_eq!(kinds.first(), Some(&"job.pending"), "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"job.completed"), "{kinds:?}");
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == "task.completed")
            .count(),
        3,
        "{kinds:?}"
    );
    assert!(live.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(
        live.iter()
            .all(|(_, kind, data)| data["type"] == *kind && data["job_id"] == id.as_str())
    );

    let all = read(server.request(Method::GET, &path).send().await.unwrap()).await;
    assert_eq!(all, live);
    let middle = live[1].0;
    let rest = read(
        server
            .request(Method::GET, &path)
            .header("last-event-id", middle)
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(rest, live[2..]);
    let rest = read(
        server
            .request(Method::GET, &format!("{path}?last_event_id={middle}"))
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(rest, live[2..]);
    let last = live.last().unwrap().0;
    let after_all = server
        .request(Method::GET, &path)
        .header("last-event-id", last)
        .send()
        .await
        .unwrap();
    assert_eq!(after_all.status(), StatusCode::NO_CONTENT);
    let wrong = server
        .request(Method::GET, &path)
        .header("last-event-id", "yesterday")
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_stream_ends_when_its_job_is_cancelled() {
    let server = Server::start().await;
    let id = server.new_job().await;
    let live = server
        .request(
            Method::GET,
            &format!("/v1/audio/transcriptions/{id}/events"),
        )
        .send()
        .await
        .unwrap();
    assert_eq!(
        server
            .post(&format!("/v1/audio/transcriptions/{id}/cancel"))
            .await
            .0,
        StatusCode::OK
    );
    let events = read(live).await;
    assert_eq!(events.last().unwrap().1, "job.cancelled");
}

#[tokio::test]
async fn streams_end_when_the_server_stops() {
    let server = Server::start().await;
    let id = server.new_job().await;
    let live = server
        .request(
            Method::GET,
            &format!("/v1/audio/transcriptions/{id}/events"),
        )
        .send()
        .await
        .unwrap();
    server.stop();
    let events = read(live).await;
    assert_eq!(events.last().unwrap().1, "job.pending");
}

#[tokio::test]
async fn an_id_that_no_event_can_have_is_refused() {
    let server = Server::start().await;
    let id = server.new_job().await;
    let path = format!("/v1/audio/transcriptions/{id}/events");
    for sent in ["-1", "-9223372036854775808", "next"] {
        let response = server
            .request(Method::GET, &path)
            .header("last-event-id", sent)
            .send()
            .await
            .unwrap();
        assert_eq!(
            response.status(),
            StatusCode::UNPROCESSABLE_ENTITY,
            "{sent}"
        );
    }
    let (status, _) = server.get(&format!("{path}?last_event_id=-1")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}
