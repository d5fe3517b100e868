//! What an operator sees in psql: every object explained, every query of the handbook runnable.

use dalston_schema::db::jobs;
use dalston_test_postgres::TestDatabase;

use crate::plan::{Worker, job, simple_plan, submit};

#[tokio::test]
async fn every_table_view_column_and_function_is_explained() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let silent: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c
          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v') and obj_description(c.oid) is null
         union all
         select c.relname || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v') and a.attnum > 0
            and not a.attisdropped and col_description(c.oid, a.attnum) is null
         union all
         select p.proname || '()' from pg_proc p
          where p.pronamespace = 'public'::regnamespace and coalesce(obj_description(p.oid), '') = ''",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(silent, Vec::<String>::new());
    let said: String = sqlx::query_scalar("select obj_description('retry_job'::regproc)")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(said.starts_with("opens everything of a failed"), "{said}");
    // What a view shows as it is means what it means in the table.
    let said: String = sqlx::query_scalar(
        "select col_description('job_details'::regclass, attnum) from pg_attribute
          where attrelid = 'job_details'::regclass and attname = 'purge_after'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(!said.is_empty());
}

#[tokio::test]
async fn every_query_of_the_operators_page_runs() {
    let TestDatabase { pool, .. } = TestDatabase::create().await;
    let worker = Worker::able(&pool).await;
    let id = submit(&pool, simple_plan()).await;
    worker.claim_one(&pool).await;
    let mut waiting = job(simple_plan());
    waiting.priority = 50;
    jobs::submit(&pool, &waiting, None).await.unwrap();

    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/psql.md")).unwrap();
    let queries: Vec<&str> = page
        .split("```sql\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(queries.len() >= 10, "{} queries", queries.len());
    for query in queries {
        // The page stands for a real job and worker with names in psql's way.
        let filled = query
            .replace(":'job'", &format!("'{id}'"))
            .replace(":'worker'", &format!("'{}'", worker.id))
            .replace(":'tenant'", "'00000000-0000-0000-0000-000000000000'");
        let task: String =
            sqlx::query_scalar("select id::text from tasks where job_id = $1 limit 1")
                .bind(id)
                .fetch_one(&pool)
                .await
                .unwrap();
        let filled = filled.replace(":'task'", &format!("'{task}'"));
        let mut tx = pool.begin().await.unwrap();
        if let Err(error) = sqlx::raw_sql(sqlx::AssertSqlSafe(filled.clone()))
            .execute(&mut *tx)
            .await
        {
            panic!("{error}\n{filled}");
        }
        tx.rollback().await.unwrap();
    }
}
