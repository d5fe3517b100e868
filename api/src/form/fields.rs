//! The texts of a form, read as leniently as clients are used to: booleans in six spellings, empty numbers as absent,
//! lists as repeated parts, as `name[]` or as a JSON array, objects as `name[key]` or as JSON.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// The texts of a form in the order they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// A form of these names and texts.
    #[cfg(test)]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        Self(pairs.iter().map(own).collect())
    }

    /// Adds a field.
    pub fn push(&mut self, name: String, text: String) {
        self.0.push((name, text));
    }

    /// Adds all fields of another form.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all names and texts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0
            .iter()
            .map(|(name, text)| (name.len() + text.len()) as u64)
            .sum()
    }

    /// Names and texts, sorted by name; the same for the same request in another order.
    #[must_use]
    pub fn sorted(&self) -> Vec<(&str, &str)> {
        let mut sorted: Vec<_> = self
            .0
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        sorted.sort_by_key(|(name, _)| *name);
        sorted
    }

    /// Whether a field came in any of its spellings (`name`, `name[]`, `name[key]`) with something in it.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(field, text)| {
            !text.trim().is_empty()
                && field
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
        })
    }

    /// The last text of a field, or `None` when it is absent or blank.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(field, _)| field == name)
            .map(|(_, text)| text.as_str())
            .filter(|text| !text.trim().is_empty())
    }

    /// A boolean: true/false/1/0/yes/no/on/off/t/f/y/n in any case.
    ///
    /// # Errors
    /// 422 for anything else.
    pub fn boolean(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        let Some(text) = self.text(name) else {
            return Ok(default);
        };
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" | "t" | "y" => Ok(true),
            "false" | "0" | "no" | "off" | "f" | "n" => Ok(false),
            _ => Err(ApiError::invalid_field(
                name,
                "Input should be a valid boolean: true, false, 1, 0, yes, no, on or off",
                text,
            )),
        }
    }

    /// A whole number in a range.
    ///
    /// # Errors
    /// 422 when it is no number or outside.
    pub fn integer(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let value: i64 = text
            .trim()
            .parse()
            .map_err(|_| ApiError::invalid_field(name, "Input should be a valid integer", text))?;
        if !range.contains(&value) {
            let message = format!("Input should be from {} to {}", range.start(), range.end());
            return Err(ApiError::invalid_field(name, message, text));
        }
        Ok(Some(value))
    }

    /// A number in a range.
    ///
    /// # Errors
    /// 422 when it is no number or outside.
    pub fn number(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<Option<f64>, ApiError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let value: f64 = text
            .trim()
            .parse()
            .map_err(|_| ApiError::invalid_field(name, "Input should be a valid number", text))?;
        if !range.contains(&value) {
            let message = format!("Input should be from {} to {}", range.start(), range.end());
            return Err(ApiError::invalid_field(name, message, text));
        }
        Ok(Some(value))
    }

    /// A list: repeated parts, with or without `[]`, or one part with a JSON array of strings. JSON `null` is absent.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<String> {
        let texts: Vec<&str> = self
            .0
            .iter()
            .filter(|(field, _)| field.strip_prefix(name).is_some_and(is_list_suffix))
            .map(|(_, text)| text.trim())
            .filter(|text| !text.is_empty() && *text != "null")
            .collect();
        if let [text] = texts.as_slice()
            && text.starts_with('[')
            && let Ok(list) = serde_json::from_str::<Vec<String>>(text)
        {
            return list;
        }
        texts.into_iter().map(str::to_owned).collect()
    }

    /// A value that is an object: `name[key]` parts, or one part with JSON; a part that is not JSON is a string.
    #[must_use]
    pub fn object(&self, name: &str) -> Option<Value> {
        let mut keys = Map::new();
        for (field, text) in &self.0 {
            if let Some(key) = field
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('[')?.strip_suffix(']'))
                .filter(|key| !key.is_empty())
            {
                let value =
                    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
                keys.insert(key.to_owned(), value);
            }
        }
        if !keys.is_empty() {
            return Some(Value::Object(keys));
        }
        let text = self.text(name)?;
        match serde_json::from_str(text) {
            Ok(Value::Null) => None,
            Ok(value) => Some(value),
            Err(_) => Some(Value::String(text.trim().to_owned())),
        }
    }
}

/// `""`, `[]` and `[0]` are ways to write a list's name.
fn is_list_suffix(suffix: &str) -> bool {
    suffix.is_empty()
        || suffix
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use serde_json::json;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        Fields(
            pairs
                .iter()
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn booleans_are_read_in_all_usual_spellings() {
        for (text, expected) in [
            ("true", true),
            ("True", true),
            ("1", true),
            ("YES", true),
            ("on", true),
            ("false", false),
            ("FALSE", false),
            ("0", false),
            ("no", false),
            ("off", false),
            ("", true),
            (" ", true),
        ] {
            assert_eq!(
                fields(&[("stream", text)]).boolean("stream", true).unwrap(),
                expected,
                "{text:?}"
            );
        }
        assert!(
            fields(&[("stream", "maybe")])
                .boolean("stream", false)
                .is_err()
        );
    }

    #[test]
    fn an_empty_number_is_absent_and_a_wrong_one_is_refused() {
        assert_eq!(fields(&[("n", "")]).integer("n", 1..=32).unwrap(), None);
        assert_eq!(
            fields(&[("n", " 7 ")]).integer("n", 1..=32).unwrap(),
            Some(7)
        );
        for wrong in ["0", "33", "x", "1.5"] {
            let error = fields(&[("n", wrong)]).integer("n", 1..=32).unwrap_err();
            assert_eq!(error.status_code().as_u16(), 422, "{wrong}");
        }
        assert_eq!(
            fields(&[("t", "0.5")]).number("t", 0.0..=1.0).unwrap(),
            Some(0.5)
        );
        assert!(fields(&[("t", "NaN")]).number("t", 0.0..=1.0).is_err());
    }

    #[test]
    fn lists_come_as_repeated_parts_brackets_or_json() {
        let expected = ["word", "segment"];
        for form in [
            fields(&[("g", "word"), ("g", "segment")]),
            fields(&[("g[]", "word"), ("g[]", "segment")]),
            fields(&[("g[0]", "word"), ("g[1]", "segment")]),
            fields(&[("g", r#"["word", "segment"]"#)]),
            fields(&[("g[]", r#"["word", "segment"]"#)]),
        ] {
            assert_eq!(form.list("g"), expected);
        }
        assert!(fields(&[("g", "null")]).list("g").is_empty());
        assert!(fields(&[("gg", "x"), ("g[key]", "x")]).list("g").is_empty());
    }

    #[test]
    fn objects_come_as_brackets_json_or_a_plain_word() {
        let bracketed = fields(&[("c[type]", "server_vad"), ("c[threshold]", "0.5")]);
        assert_eq!(
            bracketed.object("c"),
            Some(json!({"type": "server_vad", "threshold": 0.5}))
        );
        assert_eq!(
            fields(&[("c", r#"{"type":"auto"}"#)]).object("c"),
            Some(json!({"type": "auto"}))
        );
        assert_eq!(fields(&[("c", "auto")]).object("c"), Some(json!("auto")));
        assert_eq!(fields(&[("c", "null")]).object("c"), None);
    }
}
