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

#[tokio::test]
async fn an_older_program_leaves_the_functions_of_a_newer_one_alone() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    for (version, replaces) in [("99.0.0", false), ("0.0.1-old", true)] {
        sqlx::query(
            "update schema_code set checksum = case path when 'program' then $1 else 'other' end",
        )
        .bind(version)
        .execute(&pool)
        .await
        .unwrap();
        let report = migrate::migrate(&pool).await.unwrap();
        assert_eq!(report.replaced_functions, replaces, "{version}");
    }
    assert!(migrate::pending(&pool).await.unwrap().is_empty());
}
