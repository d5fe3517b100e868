//! Applies `sql/` to a database: migrations once each, functions and views whenever they changed, pgmq once.
//!
//! Everything happens in one transaction under a transaction-level advisory lock, so it works through a transaction
//! pooler and when several processes start at once.

mod embedded;

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgConnection, PgTransaction};

use super::statement::{self, Statement};
use super::{DbError, PgPool};
use embedded::{FUNCTIONS, MIGRATIONS, PGMQ, SqlFile, VIEWS};

/// Server versions (`server_version_num`) the schema is tested on: 15 up to and including 18.
const SUPPORTED: std::ops::Range<i32> = 150_000..190_000;

/// What a migration run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Migrations applied now, by file name without extension.
    pub applied: Vec<String>,
    /// Functions and views were replaced.
    pub replaced_functions: bool,
    /// pgmq was installed now.
    pub installed_pgmq: bool,
    /// `server_version` of the server.
    pub server_version: String,
}

/// Brings the database up to this program's schema. Costs three queries, two of them in a transaction, when there is
/// nothing to do.
///
/// # Errors
/// [`DbError::Version`], [`DbError::NewerSchema`], [`DbError::ChangedMigration`], or database trouble.
pub async fn migrate(pool: &PgPool) -> Result<Report, DbError> {
    let mut report = Report {
        server_version: check_version(pool).await?,
        ..Report::default()
    };
    if pending(pool).await?.is_empty() {
        return Ok(report);
    }

    let mut tx = pool.begin().await?;
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('dalston schema', 0))")
        .persistent(false)
        .execute(&mut *tx)
        .await?;
    // Function bodies name tables, functions and views in any order; they are checked when they first run.
    sqlx::raw_sql("set local check_function_bodies = off; set local client_min_messages = warning")
        .execute(&mut *tx)
        .await?;
    create_ledger(&mut tx).await?;
    report.installed_pgmq = install_pgmq(&mut tx).await?;

    // Read again: another process may have done it while this one waited for the lock.
    let state = State::read(&mut tx).await?;
    for migration in state.missing_migrations()? {
        apply_migration(&mut tx, migration).await?;
        report.applied.push(migration.0.to_owned());
    }
    if state.code_differs() {
        replace_code(&mut tx, &state).await?;
        report.replaced_functions = true;
    }
    tx.commit().await?;
    Ok(report)
}

/// Names of the migrations this program carries and the database lacks; `functions` stands for changed functions or
/// views.
///
/// # Errors
/// As [`migrate`].
pub async fn pending(pool: &PgPool) -> Result<Vec<String>, DbError> {
    // A transaction keeps a transaction pooler on one server connection.
    let mut tx = pool.begin().await?;
    let state = State::read(&mut tx).await?;
    tx.commit().await?;
    let mut names: Vec<String> = state
        .missing_migrations()?
        .into_iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    if state.code_differs() {
        names.push("functions".to_owned());
    }
    Ok(names)
}

async fn check_version(pool: &PgPool) -> Result<String, DbError> {
    let (number, text): (i32, String) = statement::rows(
        "select current_setting('server_version_num')::int, current_setting('server_version')",
    )
    .one(pool)
    .await?;
    if SUPPORTED.contains(&number) {
        Ok(text)
    } else {
        Err(DbError::Version { found: text })
    }
}

/// Where `schema_code` has the version of the program that the functions and views came with.
const PROGRAM: &str = "program";

/// What the database says was applied.
struct State {
    /// Checksum by migration number.
    migrations: BTreeMap<i32, String>,
    /// Checksum by `functions/name` or `views/name`, and the version under [`PROGRAM`].
    code: BTreeMap<String, String>,
}

impl State {
    async fn read(connection: &mut PgConnection) -> Result<Self, DbError> {
        let exists: bool = sqlx::query_scalar(
            "select to_regclass(quote_ident(current_schema()) || '.schema_migrations') is not null",
        )
        .persistent(false)
        .fetch_one(&mut *connection)
        .await?;
        if !exists {
            return Ok(Self {
                migrations: BTreeMap::new(),
                code: BTreeMap::new(),
            });
        }
        let rows: Vec<(Option<i32>, String, String)> = sqlx::query_as(
            "select number, name, checksum from schema_migrations
             union all select null, path, checksum from schema_code",
        )
        .persistent(false)
        .fetch_all(connection)
        .await?;
        let (migrations, code): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|(number, ..)| number.is_some());
        Ok(Self {
            migrations: migrations
                .into_iter()
                .filter_map(|(number, _, sum)| Some((number?, sum)))
                .collect(),
            code: code.into_iter().map(|(_, path, sum)| (path, sum)).collect(),
        })
    }

    /// The migrations to apply, in order.
    fn missing_migrations(&self) -> Result<Vec<&'static SqlFile>, DbError> {
        let newest_known = MIGRATIONS.last().map_or(0, number_of);
        if let Some((&found, _)) = self.migrations.last_key_value()
            && found > newest_known
        {
            return Err(DbError::NewerSchema { found });
        }
        let mut missing = Vec::new();
        for migration in MIGRATIONS {
            let number = number_of(migration);
            match self.migrations.get(&number) {
                None => missing.push(migration),
                Some(sum) if *sum == checksum(migration.1) => {}
                Some(_) => return Err(DbError::ChangedMigration { number }),
            }
        }
        Ok(missing)
    }

    /// Whether functions or views are to be replaced: not by a program older than the one whose they are, as one that is
    /// started once more during an upgrade.
    fn code_differs(&self) -> bool {
        let theirs = self.code.get(PROGRAM).map(|text| version(text));
        theirs.is_none_or(|theirs| theirs <= version(env!("CARGO_PKG_VERSION")))
            && self.code != carried_code()
    }
}

/// The numbers of a version; what is no number counts as 0.
fn version(text: &str) -> Vec<u64> {
    let numbers = text.split(['-', '+']).next().unwrap_or_default().split('.');
    numbers.map(|number| number.parse().unwrap_or(0)).collect()
}

/// Checksums of this program's functions and views, by path, and its version.
fn carried_code() -> BTreeMap<String, String> {
    let paths = |folder: &'static str, files: &'static [SqlFile]| {
        files
            .iter()
            .map(move |(name, text)| (format!("{folder}/{name}"), checksum(text)))
    };
    let program = (PROGRAM.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    paths("functions", FUNCTIONS)
        .chain(paths("views", VIEWS))
        .chain([program])
        .collect()
}

fn number_of((name, _): &SqlFile) -> i32 {
    name.split('_')
        .next()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

fn checksum(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

async fn create_ledger(tx: &mut PgTransaction<'_>) -> Result<(), DbError> {
    sqlx::raw_sql(
        "create table if not exists schema_migrations (
           number int primary key, name text not null, checksum text not null, applied_at timestamptz not null default now());
         comment on table schema_migrations is 'Files of sql/migrations that were applied.';
         comment on column schema_migrations.number is 'Number in the file name.';
         comment on column schema_migrations.name is 'File name without extension.';
         comment on column schema_migrations.checksum is 'SHA-256 of the file; a released migration is never edited.';
         comment on column schema_migrations.applied_at is 'When.';
         create table if not exists schema_code (
           path text primary key, checksum text not null, applied_at timestamptz not null default now());
         comment on table schema_code is 'Files of sql/functions and sql/views as they are in this database; replaced when the program carries others.';
         comment on column schema_code.path is 'functions/<name> or views/<name>; program for the version they came with.';
         comment on column schema_code.checksum is 'SHA-256 of the file, or the version.';
         comment on column schema_code.applied_at is 'When.';",
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Installs pgmq unless it is there, as an extension or as plain SQL.
async fn install_pgmq(tx: &mut PgTransaction<'_>) -> Result<bool, DbError> {
    let installed: bool = sqlx::query_scalar(
        "select exists (select from pg_extension where extname = 'pgmq') or to_regclass('pgmq.meta') is not null",
    )
    .persistent(false)
.fetch_one(&mut **tx)
    .await?;
    if !installed {
        sqlx::raw_sql(PGMQ).execute(&mut **tx).await?;
    }
    Ok(!installed)
}

async fn apply_migration(
    tx: &mut PgTransaction<'_>,
    migration: &'static SqlFile,
) -> Result<(), DbError> {
    let (name, text) = *migration;
    sqlx::raw_sql(text).execute(&mut **tx).await?;
    sqlx::query("insert into schema_migrations (number, name, checksum) values ($1, $2, $3)")
        .persistent(false)
        .bind(number_of(migration))
        .bind(name)
        .bind(checksum(text))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Drops the views, replaces the functions that changed, and makes the views again.
async fn replace_code(tx: &mut PgTransaction<'_>, state: &State) -> Result<(), DbError> {
    let names = |folder: &str| -> BTreeSet<&str> {
        state
            .code
            .keys()
            .filter_map(|path| path.strip_prefix(folder))
            .collect()
    };
    let known_views = names("views/");
    if !known_views.is_empty() {
        let list: Vec<&str> = known_views.into_iter().collect();
        // In one statement, so that their dependencies on each other do not matter.
        sqlx::raw_sql(AssertSqlSafe(format!(
            "drop view if exists {}",
            list.join(", ")
        )))
        .execute(&mut **tx)
        .await?;
    }
    let carried: BTreeSet<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
    for gone in names("functions/").difference(&carried) {
        drop_function(tx, gone).await?;
    }
    for &(name, text) in FUNCTIONS {
        if state.code.get(&format!("functions/{name}")) != Some(&checksum(text)) {
            replace_function(tx, name, text).await?;
        }
    }
    for (name, text) in VIEWS {
        sqlx::raw_sql(*text).execute(&mut **tx).await?;
        inherit_comments(tx, name).await?;
    }
    comment_functions(tx).await?;

    sqlx::query("delete from schema_code")
        .persistent(false)
        .execute(&mut **tx)
        .await?;
    let (paths, sums): (Vec<String>, Vec<String>) = carried_code().into_iter().unzip();
    sqlx::query(
        "insert into schema_code (path, checksum) select * from unnest($1::text[], $2::text[])",
    )
    .persistent(false)
    .bind(paths)
    .bind(sums)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A column that a view shows as it is under the name it has there keeps its comment. Where several relations have a
/// column of that name, the view's own file says which is meant.
async fn inherit_comments(tx: &mut PgTransaction<'_>, view: &str) -> Result<(), DbError> {
    let comments: Vec<String> = sqlx::query_scalar(
        "select format('comment on column %I.%I is %L', $1, a.attname, min(col_description(s.attrelid, s.attnum)))
           from pg_attribute a
           join pg_rewrite r on r.ev_class = a.attrelid
           join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
                           and d.refclassid = 'pg_class'::regclass and d.refobjid <> a.attrelid
           join pg_attribute s on s.attrelid = d.refobjid and s.attnum = d.refobjsubid and s.attname = a.attname
          where a.attrelid = to_regclass(quote_ident($1)) and a.attnum > 0
            and col_description(a.attrelid, a.attnum) is null
          group by a.attname having count(distinct s.attrelid) = 1",
    )
    .persistent(false)
    .bind(view)
    .fetch_all(&mut **tx)
    .await?;
    run_together(tx, comments).await
}

/// A function is explained by what its file begins with, up to the first empty line.
async fn comment_functions(tx: &mut PgTransaction<'_>) -> Result<(), DbError> {
    let (names, comments): (Vec<&str>, Vec<String>) = FUNCTIONS
        .iter()
        .map(|(name, text)| (*name, explanation(name, text)))
        .unzip();
    let statements: Vec<String> = sqlx::query_scalar(
        "select format('comment on function %I is %L', name, comment) from unnest($1::text[], $2::text[]) as f (name, comment)",
    )
    .persistent(false)
    .bind(names)
    .bind(comments)
    .fetch_all(&mut **tx)
    .await?;
    run_together(tx, statements).await
}

/// What the comment at the beginning of a file says after the name.
fn explanation(name: &str, text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map_while(|line| line.strip_prefix("-- "))
        .collect();
    let comment = lines.join(" ");
    let said = comment
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix(": "));
    said.unwrap_or(&comment).to_owned()
}

async fn run_together(tx: &mut PgTransaction<'_>, statements: Vec<String>) -> Result<(), DbError> {
    sqlx::raw_sql(AssertSqlSafe(statements.join(";")))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Replaces a function in place, so that calls in flight are not disturbed; drops it first only when its arguments or
/// its result changed.
async fn replace_function(
    tx: &mut PgTransaction<'_>,
    name: &str,
    text: &'static str,
) -> Result<(), DbError> {
    sqlx::raw_sql("savepoint replace_function")
        .execute(&mut **tx)
        .await?;
    match sqlx::raw_sql(text).execute(&mut **tx).await {
        Ok(_) => {
            let overloads: i64 = sqlx::query_scalar(
                "select count(*) from pg_proc where proname = $1 and pronamespace = current_schema()::regnamespace",
            )
            .bind(name)
            .persistent(false)
.fetch_one(&mut **tx)
            .await?;
            if overloads == 1 {
                return Ok(());
            }
        }
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P13") => {
            sqlx::raw_sql("rollback to savepoint replace_function")
                .execute(&mut **tx)
                .await?;
        }
        Err(error) => return Err(error.into()),
    }
    drop_function(tx, name).await?;
    sqlx::raw_sql(text).execute(&mut **tx).await?;
    Ok(())
}

async fn drop_function(tx: &mut PgTransaction<'_>, name: &str) -> Result<(), DbError> {
    let signatures: Vec<String> = sqlx::query_scalar(
        "select oid::regprocedure::text from pg_proc where proname = $1 and pronamespace = current_schema()::regnamespace",
    )
    .bind(name)
    .persistent(false)
.fetch_all(&mut **tx)
    .await?;
    for signature in signatures {
        sqlx::raw_sql(AssertSqlSafe(format!("drop function {signature}")))
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn listed(folder: &str) -> BTreeSet<String> {
        std::fs::read_dir(format!("{}/../sql/{folder}", env!("CARGO_MANIFEST_DIR")))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.strip_suffix(".sql").unwrap().to_owned())
            .collect()
    }

    #[test]
    fn every_file_of_sql_is_carried() {
        for (folder, files) in [
            ("migrations", MIGRATIONS),
            ("functions", FUNCTIONS),
            ("views", VIEWS),
        ] {
            let carried: BTreeSet<String> =
                files.iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!(carried, listed(folder), "sql/{folder} against embedded.rs");
        }
    }

    #[test]
    fn migrations_are_numbered_without_gaps() {
        let numbers: Vec<i32> = MIGRATIONS.iter().map(number_of).collect();
        assert_eq!(
            numbers,
            (1..=i32::try_from(MIGRATIONS.len()).unwrap()).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_function_is_explained_by_the_first_paragraph_of_its_file() {
        let text = "-- end_it: ends it. Called\n-- by all.\n--\n-- Long story.\ncreate";
        assert_eq!(explanation("end_it", text), "ends it. Called by all.");
    }

    #[test]
    fn every_function_file_defines_the_function_it_is_named_after_and_says_why() {
        for (name, text) in FUNCTIONS {
            assert!(text.starts_with(&format!("-- {name}: ")), "{name}");
            assert!(
                text.contains(&format!("\ncreate or replace function {name}(")),
                "{name}"
            );
        }
    }
}
