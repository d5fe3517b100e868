//! The arrows between the crates, as docs/ARCHITECTURE.md draws them.

use std::collections::BTreeSet;
use std::process::Command;

/// Names of all crates that `package` links, itself included.
fn dependencies(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--package",
            package,
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo tree runs");
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn never_links(package: &str, forbidden: &[&str]) {
    let found = dependencies(package);
    assert!(
        found.contains(package),
        "cargo tree listed nothing for {package}"
    );
    for name in forbidden {
        assert!(!found.contains(*name), "{package} must not link {name}");
    }
}

#[test]
fn the_api_links_no_models_and_no_worker() {
    never_links("dalston-api", &["ort", "dalston-engines", "dalston-worker"]);
}

#[test]
fn the_engines_know_neither_sql_nor_http_nor_an_async_runtime() {
    never_links(
        "dalston-engines",
        &[
            "sqlx",
            "poem",
            "reqwest",
            "tokio",
            "object_store",
            "dalston-schema",
        ],
    );
}

#[test]
fn the_audio_crate_knows_no_models() {
    never_links(
        "dalston-audio",
        &["ort", "sqlx", "poem", "tokio", "dalston-schema"],
    );
}

#[test]
fn the_schema_knows_nothing_above_it() {
    never_links(
        "dalston-schema",
        &[
            "ort",
            "poem",
            "dalston-engines",
            "dalston-worker",
            "dalston-api",
        ],
    );
}

#[test]
fn the_worker_serves_no_http_api() {
    never_links("dalston-worker", &["poem", "poem-openapi", "dalston-api"]);
}

#[test]
fn only_one_tls_stack_is_built() {
    never_links("dalston", &["aws-lc-sys", "openssl-sys"]);
}
