//! The transcript itself, indented by two spaces.

use dalston_schema::Transcript;

/// Writes the transcript's JSON; `{}` when there is none.
#[must_use]
pub fn render(transcript: Option<&Transcript>) -> String {
    transcript
        .and_then(|transcript| serde_json::to_string_pretty(transcript).ok())
        .unwrap_or_else(|| "{}".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::samples::transcript;

    #[test]
    fn text_is_not_escaped_and_keys_keep_their_order() {
        let text = render(Some(&transcript(&[(0.0, 1.0, "Grüße", None)])));
        assert!(text.starts_with("{\n  \"job_id\": \""));
        assert!(text.contains("\"text\": \"Grüße\""));
        assert!(text.find("\"metadata\"") < text.find("\"segments\""));
    }
}
