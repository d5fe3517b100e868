#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::failure::StageError;

fn key(model: &str) -> ModelKey {
    ModelKey {
        engine: "whisper".into(),
        model: model.into(),
    }
}

/// A pool whose models are their own names, and a count of loads.
fn pool(budget: u64) -> (ModelPool<String>, Arc<AtomicUsize>) {
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&loads);
    let pool = ModelPool::new(budget, move |key| {
        counted.fetch_add(1, Ordering::SeqCst);
        if key.model == "broken" {
            return Err(StageError::permanent("the model folder has no encoder"));
        }
        assert!(key.model != "panics", "a loader that panics");
        Ok(key.model.clone())
    });
    (pool, loads)
}

fn names(pool: &ModelPool<String>) -> Vec<String> {
    pool.loaded()
        .into_iter()
        .map(|loaded| loaded.key.model)
        .collect()
}

#[tokio::test]
async fn many_tasks_share_one_load() {
    let (pool, loads) = pool(100);
    let models = futures_util::future::join_all((0..20).map(|_| {
        let pool = pool.clone();
        async move { pool.acquire(&key("tiny"), 10).await.unwrap() }
    }))
    .await;
    assert_eq!(loads.load(Ordering::SeqCst), 1);
    assert_eq!(pool.loaded()[0].users, 20);
    drop(models);
    assert_eq!(pool.loaded()[0].users, 0);
    let again = pool.acquire(&key("tiny"), 10).await.unwrap();
    assert_eq!(*again, "tiny");
    assert_eq!(loads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_longest_unused_model_makes_room() {
    let (pool, _) = pool(25);
    drop(pool.acquire(&key("a"), 10).await.unwrap());
    drop(pool.acquire(&key("b"), 10).await.unwrap());
    drop(pool.acquire(&key("a"), 10).await.unwrap());
    drop(pool.acquire(&key("c"), 10).await.unwrap());
    assert_eq!(names(&pool), ["a", "c"]);
}

#[tokio::test]
async fn a_model_in_use_is_never_unloaded_and_the_next_one_waits_for_its_memory() {
    let (pool, loads) = pool(15);
    let in_use = pool.acquire(&key("a"), 10).await.unwrap();
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire(&key("b"), 10).await.unwrap().clone() }
    });
    // The waiter holds the turn from its first look on.
    while pool.shared.turn.try_lock().is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(pool.unload_idle(Duration::ZERO), 0);
    assert_eq!(names(&pool), ["a"]);
    assert_eq!(loads.load(Ordering::SeqCst), 1);
    drop(in_use);
    assert_eq!(waiting.await.unwrap(), "b");
    assert_eq!(names(&pool), ["b"]);
}

#[tokio::test]
async fn a_model_larger_than_the_budget_is_loaded_alone() {
    let (pool, _) = pool(15);
    drop(pool.acquire(&key("a"), 10).await.unwrap());
    let large = pool.acquire(&key("large"), 100).await.unwrap();
    assert_eq!(*large, "large");
    assert_eq!(names(&pool), ["large"]);
}

#[tokio::test]
async fn a_failed_load_is_an_error_for_its_task_and_leaves_no_place_taken() {
    let (pool, loads) = pool(15);
    for _ in 0..2 {
        let error = pool.acquire(&key("broken"), 10).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "The model broken cannot be used: the model folder has no encoder"
        );
    }
    assert_eq!(loads.load(Ordering::SeqCst), 2);
    assert!(pool.acquire(&key("panics"), 10).await.is_err());
    pool.acquire(&key("fine"), 15).await.unwrap();
}

#[tokio::test]
async fn idle_and_removed_models_are_unloaded() {
    let (pool, _) = pool(100);
    drop(pool.acquire(&key("a"), 10).await.unwrap());
    drop(pool.acquire(&key("b"), 10).await.unwrap());
    assert_eq!(pool.unload_idle(Duration::from_secs(3600)), 0);
    assert_eq!(pool.unload_unknown(|key| key.model == "a"), 1);
    assert_eq!(names(&pool), ["a"]);
    assert_eq!(pool.unload_idle(Duration::ZERO), 1);
    assert!(names(&pool).is_empty());
}
