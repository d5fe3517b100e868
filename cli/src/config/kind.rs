//! What a setting's text may be.

use std::net::IpAddr;

/// The kind of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A file or folder; relative ones start at the working folder.
    Path,
    /// An IP address.
    Address,
    /// `http://…` or `https://…`.
    HttpUrl,
    /// `postgres://…` or `postgresql://…`.
    PostgresUrl,
    /// A whole number from the first to the second, both included.
    Integer(i64, i64),
    /// A number from the first to the second, both included.
    Decimal(f64, f64),
    /// True or false.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
}

const TRUE: [&str; 4] = ["true", "1", "yes", "on"];
const FALSE: [&str; 4] = ["false", "0", "no", "off"];

impl Kind {
    /// Whether `text` is such a value.
    pub fn accepts(self, text: &str) -> bool {
        match self {
            Kind::Text | Kind::Path => true,
            Kind::Address => text.parse::<IpAddr>().is_ok(),
            Kind::HttpUrl => url::Url::parse(text)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()),
            Kind::PostgresUrl => url::Url::parse(text)
                .is_ok_and(|url| matches!(url.scheme(), "postgres" | "postgresql")),
            Kind::Integer(least, most) => text
                .parse()
                .is_ok_and(|number: i64| (least..=most).contains(&number)),
            Kind::Decimal(least, most) => text
                .parse()
                .is_ok_and(|number: f64| (least..=most).contains(&number)),
            Kind::Flag => flag(text).is_some(),
            Kind::Choice(words) => words.contains(&text),
        }
    }

    /// What the value may be, for messages and documentation.
    pub fn allowed(self) -> String {
        match self {
            Kind::Text => "any text".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::Address => "an IP address, for example 127.0.0.1 or ::".to_owned(),
            Kind::HttpUrl => "a URL that starts with http:// or https://".to_owned(),
            Kind::PostgresUrl => "a URL that starts with postgres://".to_owned(),
            Kind::Integer(least, most) => format!("a whole number, {least} to {most}"),
            Kind::Decimal(least, most) => format!("a number, {least} to {most}"),
            Kind::Flag => "true, false (or 1, 0, yes, no, on, off)".to_owned(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }
}

/// The truth in `text`, in any of the usual spellings.
pub(super) fn flag(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    match (
        TRUE.contains(&text.as_str()),
        FALSE.contains(&text.as_str()),
    ) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_accepts_its_values_and_no_others() {
        let check = |kind: Kind, yes: &[&str], no: &[&str]| {
            for text in yes {
                assert!(kind.accepts(text), "{kind:?} should accept {text}");
            }
            for text in no {
                assert!(!kind.accepts(text), "{kind:?} should refuse {text}");
            }
        };
        check(Kind::Address, &["0.0.0.0", "::1"], &["localhost", "1.2.3"]);
        check(
            Kind::HttpUrl,
            &["http://a:9000", "https://b/c"],
            &["a:9000", "ftp://a", "http://"],
        );
        check(
            Kind::PostgresUrl,
            &["postgres://u@h/d", "postgresql://h/d?host=%2Ftmp"],
            &["u@h/d", "http://h"],
        );
        check(Kind::Integer(1, 10), &["1", "10"], &["0", "11", "1.5", ""]);
        check(
            Kind::Decimal(0.0, 1.0),
            &["0", "0.5", "1"],
            &["-0.1", "nan", "x"],
        );
        check(Kind::Flag, &["true", "True", "0", "off"], &["2", ""]);
        check(Kind::Choice(&["a", "b"]), &["a"], &["A", "c"]);
    }
}
