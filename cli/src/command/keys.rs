//! `dalston keys`: create, list and revoke API keys, through a server or in the database itself.

use anyhow::bail;
use clap::builder::RangedI64ValueParser;
use clap::{Args, Subcommand};
use dalston_schema::db::{PgPool, keys, migrate};
use dalston_schema::{ApiKeyId, TenantId};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::Usage;
use crate::admin_key::{self, SCOPES};
use crate::client::Client;
use crate::config::Config;
use crate::database::Database;
use crate::local_server::{Absent, Connection};
use crate::print;

/// The `dalston keys` commands.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Create a key; it is shown once
    Create(Create),
    /// List keys, newest first
    List(List),
    /// Revoke a key
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub struct Create {
    /// A name to tell it apart
    #[arg(long, short = 'n')]
    name: String,
    /// What it may do: jobs:read, jobs:write, realtime, webhooks, admin (comma-separated)
    #[arg(long, value_delimiter = ',', default_value = "jobs:read,jobs:write,realtime", value_parser = clap::builder::PossibleValuesParser::new(SCOPES))]
    scopes: Vec<String>,
    /// Requests a minute; without it, no limit
    #[arg(long, value_parser = RangedI64ValueParser::<i32>::new().range(1..=10_000))]
    rate_limit: Option<i32>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub struct List {
    /// Also revoked keys
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub struct Revoke {
    /// The key's id (see `dalston keys list`)
    id: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub struct How {
    /// Work on the database itself, without a server or a key: for the first key, or when all are lost
    #[arg(long)]
    database: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs one of the commands.
pub async fn run(command: Keys, config: Config) -> anyhow::Result<()> {
    let how = match &command {
        Keys::Create(Create { how, .. })
        | Keys::List(List { how, .. })
        | Keys::Revoke(Revoke { how, .. }) => how,
    };
    let as_json = how.json;
    let answer = if how.database {
        in_database(&command, &config).await?
    } else {
        through_server(&command, &config).await?
    };
    if as_json {
        print::json(&answer);
        return Ok(());
    }
    match command {
        Keys::Create(_) => {
            print::line(answer["key"].as_str().unwrap_or_default());
            print::note(format!(
                "This is the only time the key is shown. Its id is {}.",
                answer["id"].as_str().unwrap_or("-")
            ));
        }
        Keys::List(_) => {
            let rows: Vec<[String; 6]> = answer["keys"]
                .as_array()
                .into_iter()
                .flatten()
                .map(row)
                .collect();
            print::line(print::table(
                ["ID", "PREFIX", "CREATED", "LAST USED", "SCOPES", "NAME"],
                &rows,
            ));
        }
        Keys::Revoke(_) => print::line("Revoked."),
    }
    Ok(())
}

fn row(key: &Value) -> [String; 6] {
    let text = |name: &str| key[name].as_str().unwrap_or("-").to_owned();
    let time = |name: &str| {
        text(name)
            .chars()
            .take(16)
            .collect::<String>()
            .replace('T', " ")
    };
    let scopes: Vec<&str> = key["scopes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let revoked = if key["is_revoked"] == true {
        " (revoked)"
    } else {
        ""
    };
    [
        text("id"),
        text("prefix"),
        time("created_at"),
        time("last_used_at"),
        scopes.join(","),
        format!("{}{revoked}", text("name")),
    ]
}

async fn through_server(command: &Keys, config: &Config) -> anyhow::Result<Value> {
    let client: Client = Connection::open(config, Absent::Fail).await?.client.clone();
    match command {
        Keys::Create(options) => {
            client.post(&["auth", "keys"], &json!({ "name": options.name, "scopes": options.scopes, "rate_limit": options.rate_limit })).await
        }
        Keys::List(options) => client.get(&["auth", "keys"], &[("include_revoked", options.all.to_string())]).await,
        Keys::Revoke(options) => {
            client.delete(&["auth", "keys", &options.id], &[]).await?;
            Ok(json!({ "id": options.id, "is_revoked": true }))
        }
    }
}

async fn in_database(command: &Keys, config: &Config) -> anyhow::Result<Value> {
    let database = Database::open(config).await?;
    let pool = database.pool(config)?;
    let done = async {
        migrate::migrate(&pool).await?;
        statement(command, &pool).await
    }
    .await;
    pool.close().await;
    database.close().await?;
    done
}

async fn statement(command: &Keys, pool: &PgPool) -> anyhow::Result<Value> {
    match command {
        Keys::Create(options) => {
            let key = admin_key::generate();
            let stored = keys::create(
                pool,
                &admin_key::record(&key, &options.name, &options.scopes, options.rate_limit),
            )
            .await?;
            let mut answer = object(&stored);
            answer["key"] = key.expose_secret().into();
            Ok(answer)
        }
        Keys::List(options) => {
            let found = keys::list(pool, TenantId::DEFAULT, options.all).await?;
            Ok(
                json!({ "keys": found.iter().map(object).collect::<Vec<_>>(), "total": found.len() }),
            )
        }
        Keys::Revoke(options) => {
            let id: ApiKeyId = options.id.parse().map_err(|_| {
                Usage(format!(
                    "{} is not a key's id; see `dalston keys list`",
                    options.id
                ))
            })?;
            if !keys::revoke(pool, TenantId::DEFAULT, id).await? {
                bail!("API key not found");
            }
            Ok(json!({ "id": options.id, "is_revoked": true }))
        }
    }
}

/// A stored key in the form the API gives.
fn object(key: &keys::ApiKey) -> Value {
    json!({
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "tenant_id": key.tenant_id,
        "scopes": key.scopes,
        "rate_limit": key.rate_limit,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "expires_at": key.expires_at,
        "is_revoked": key.revoked_at.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revoked_key_is_marked() {
        let key = json!({"id": "1", "prefix": "dk_abc1234", "name": "old", "scopes": ["jobs:read", "admin"], "created_at": "2026-01-02T03:04:05Z", "is_revoked": true});
        assert_eq!(
            row(&key),
            [
                "1",
                "dk_abc1234",
                "2026-01-02 03:04",
                "-",
                "jobs:read,admin",
                "old (revoked)"
            ]
        );
    }
}
