//! `dalston config`: the effective configuration as a table or JSON, secrets hidden.

use serde_json::{Value, json};

use super::settings::{GROUPS, Setting};
use super::values::Values;

/// A table of name, value, who set it and what it means.
pub fn table(values: &Values) -> String {
    let rows: Vec<[String; 4]> = values
        .shown()
        .map(|(setting, text, origin)| {
            [
                setting.name.to_owned(),
                text.unwrap_or_else(|| "-".to_owned()),
                origin.as_str().to_owned(),
                setting.meaning.to_owned(),
            ]
        })
        .collect();
    crate::print::table(["NAME", "VALUE", "SET BY", "MEANING"], &rows)
}

/// A list of objects `name`, `value` (null when not set), `set_by`, `default` (null when there is none), `allowed`,
/// `meaning`, `secret`.
pub fn json(values: &Values) -> Value {
    values
        .shown()
        .map(|(setting, text, origin)| {
            json!({
                "name": setting.name,
                "value": text,
                "set_by": origin.as_str(),
                "default": (!setting.default.is_empty()).then_some(setting.default),
                "allowed": setting.kind.allowed(),
                "meaning": setting.meaning,
                "secret": setting.secret,
            })
        })
        .collect()
}

/// The reference page of all settings, `docs/configuration.md`.
pub fn markdown() -> String {
    let mut page = "# Configuration\n\nEvery setting is an environment variable; some have an option on the command line, which wins. \
         `dalston config` prints the effective\nvalues and who set each. A wrong value stops the start with the variable's \
         name and what it may be; a blank one counts as not set.\nThis page is printed by `dalston config --markdown`.\n"
        .to_owned();
    for group in GROUPS {
        page.push_str(&format!(
            "\n## {}\n\n| Variable | Default | Value | Meaning |\n|---|---|---|---|\n",
            group.title
        ));
        page.extend(group.settings.iter().map(markdown_row));
    }
    page
}

fn markdown_row(setting: &Setting) -> String {
    let default = if setting.default.is_empty() {
        String::new()
    } else {
        format!("`{}`", setting.default)
    };
    let secret = if setting.secret { " (secret)" } else { "" };
    format!(
        "| `{}` | {default} | {}{secret} | {} |\n",
        setting.name,
        setting.kind.allowed(),
        setting.meaning
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::super::Config;
    use super::*;

    #[test]
    fn neither_form_shows_a_secret() {
        let secrets = [
            "DALSTON_API_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "HF_TOKEN",
            "DATABASE_URL",
        ];
        let config = Config::load(&[], |name| {
            secrets
                .contains(&name)
                .then(|| "postgres://user:hunter2@host/db".to_owned())
        })
        .unwrap();
        for text in [
            table(&config.values),
            json(&config.values).to_string(),
            format!("{config:?}"),
        ] {
            assert!(!text.contains("hunter2"), "{text}");
        }
        assert!(table(&config.values).contains("(hidden)"));
    }

    #[test]
    fn the_table_says_who_set_what() {
        let config = Config::load(&[], |name| {
            (name == "DALSTON_PORT").then(|| "9000".to_owned())
        })
        .unwrap();
        let text = table(&config.values);
        let line = text
            .lines()
            .find(|line| line.starts_with("DALSTON_PORT"))
            .unwrap();
        assert!(
            line.contains("9000") && line.contains("environment"),
            "{line}"
        );
        let rows = json(&config.values);
        let row = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["name"] == "DALSTON_S3_BUCKET")
            .unwrap();
        assert_eq!(row["value"], Value::Null);
        assert_eq!(row["set_by"], "default");
    }

    #[test]
    fn the_reference_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == markdown(),
            "docs/configuration.md differs from the settings: target/debug/dalston config --markdown > docs/configuration.md"
        );
    }
}
