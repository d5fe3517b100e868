//! Migrations on a real PostgreSQL.

use dalston_schema::db::migrate;
use dalston_test_postgres::TestDatabase;

#[tokio::test]
async fn migrating_twice_does_nothing_the_second_time() {
    let database = TestDatabase::create_empty().await;
    let first = migrate::migrate(&database.pool).await.unwrap();
    assert!(first.installed_pgmq && first.replaced_functions && !first.applied.is_empty());
    assert!(migrate::pending(&database.pool).await.unwrap().is_empty());
    let second = migrate::migrate(&database.pool).await.unwrap();
    assert!(!second.installed_pgmq && !second.replaced_functions && second.applied.is_empty());
}
