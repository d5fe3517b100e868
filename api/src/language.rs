//! Language codes as clients write them.

use crate::error::ApiError;

/// ISO 639-1, and `jw`, which Whisper calls Javanese.
const TWO_LETTERS: &str = "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da \
    de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io \
    is it iu ja jv jw ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt \
    my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn \
    so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu";

/// Reads a language: ISO 639-1 (or a three-letter code of the models), any case, a region is dropped; `auto` detects.
///
/// # Errors
/// 422 when it is no language code, or that of no language.
pub fn read(text: &str) -> Result<Option<String>, ApiError> {
    let code = text.trim().to_ascii_lowercase();
    let base = code.split(['-', '_']).next().unwrap_or_default();
    if code == "auto" {
        return Ok(None);
    }
    let letters = base.bytes().all(|byte| byte.is_ascii_lowercase());
    let message = match base.len() {
        2 if TWO_LETTERS.split(' ').any(|known| known == base) => return Ok(Some(base.to_owned())),
        3 if letters => return Ok(Some(base.to_owned())),
        2 if letters => format!(
            "There is no language with the code {base}. Send its ISO 639-1 code, such as en, or auto"
        ),
        _ => "Input should be an ISO 639-1 language code such as en, or auto".to_owned(),
    };
    Err(ApiError::invalid_field("language", message, text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn languages_are_codes_in_any_case() {
        for (text, expected) in [
            ("en", Some("en")),
            ("EN-gb", Some("en")),
            ("pt_BR", Some("pt")),
            ("yue", Some("yue")),
            ("Auto", None),
        ] {
            assert_eq!(read(text).unwrap().as_deref(), expected);
        }
        for text in ["english", "e", "12", "../x"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(
            read("xx").unwrap_err().message(),
            "There is no language with the code xx. Send its ISO 639-1 code, such as en, or auto"
        );
    }
}
