//! JSON bodies. One that cannot be used is refused field by field: each with its name, what was sent and what would be
//! right, found by comparing the body with the documented schema of what was expected.

use poem::error::ReadBodyError;
use poem::http::StatusCode;
use poem::{Request, RequestBody};
use poem_openapi::error::ContentTypeError;
use poem_openapi::payload::{Json, Payload};
use poem_openapi::registry::{MetaRequest, MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::ParseFromJSON;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use serde_json::Value;

use crate::error::{ApiError, InvalidValue};

/// Longest body, in bytes.
const MOST_BYTES: usize = 1 << 20;

/// A body in JSON.
pub struct Body<T>(pub T);

impl<'a, T: ParseFromJSON> ApiExtractor<'a> for Body<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Json<T> as Payload>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        <Json<T> as ApiExtractor>::request_meta()
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let content_type = request
            .content_type()
            .ok_or(ContentTypeError::ExpectContentType)?;
        if !Json::<T>::check_content_type(content_type) {
            return Err(ContentTypeError::NotSupported {
                content_type: content_type.to_owned(),
            }
            .into());
        }
        let bytes = body.take()?.into_bytes_limit(MOST_BYTES).await;
        let bytes = bytes.map_err(|error| match error {
            ReadBodyError::PayloadTooLarge => ApiError::standard(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("A JSON body may have {} MiB", MOST_BYTES >> 20),
            ),
            error => ApiError::bad_request(format!("The body could not be read: {error}")),
        })?;
        Ok(read(&bytes).map(Self).map_err(ApiError::invalid)?)
    }
}

/// Reads a body, or says what is wrong with it. An empty one is null.
fn read<T: ParseFromJSON>(bytes: &[u8]) -> Result<T, Vec<InvalidValue>> {
    let whole = |message: String| {
        vec![InvalidValue {
            place: "body",
            name: String::new(),
            message,
            input: Value::Null,
        }]
    };
    let value: Value = match bytes {
        [] => Value::Null,
        bytes => serde_json::from_slice(bytes)
            .map_err(|error| whole(format!("The body is not JSON: {error}")))?,
    };
    T::parse_from_json(Some(value.clone())).map_err(|error| {
        let mut registry = Registry::new();
        let schema = registry.create_fake_schema::<T>();
        let Value::Object(fields) = &value else {
            return whole("Input should be a JSON object".to_owned());
        };
        let mut refused: Vec<InvalidValue> = Vec::new();
        let mut refuse = |name: &str, message: String| {
            refused.push(InvalidValue {
                place: "body",
                name: name.to_owned(),
                message,
                input: fields.get(name).cloned().unwrap_or_default(),
            });
        };
        for (name, expected) in &schema.properties {
            match fields.get(*name) {
                None | Some(Value::Null) if !schema.required.contains(name) => {}
                None => refuse(name, "Field required".to_owned()),
                Some(sent) => {
                    if let Some(message) = objection(sent, expected) {
                        refuse(name, message);
                    }
                }
            }
        }
        for name in fields.keys() {
            if !schema.properties.iter().any(|(known, _)| known == name) {
                refuse(name, "There is no such field".to_owned());
            }
        }
        if refused.is_empty() {
            return whole(error.into_message());
        }
        refused
    })
}

/// What is wrong with a value; `None` when it is as expected.
fn objection(value: &Value, expected: &MetaSchemaRef) -> Option<String> {
    let MetaSchemaRef::Inline(schema) = expected else {
        return None;
    };
    let right = match schema.ty {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        _ => true,
    };
    if !right {
        let kind = match schema.ty {
            "array" => "list",
            kind => kind,
        };
        return Some(format!("Input should be a valid {kind}"));
    }
    if let (Some(items), Some(values)) = (&schema.items, value.as_array()) {
        return values.iter().find_map(|value| objection(value, items));
    }
    if let Some(text) = value.as_str() {
        return out_of(schema, text.chars().count());
    }
    let number = value.as_f64()?;
    let least = schema.minimum.filter(|least| number < *least);
    let most = schema.maximum.filter(|most| number > *most);
    least.or(most)?;
    Some(match (schema.minimum, schema.maximum) {
        (Some(least), Some(most)) => format!("Input should be from {least} to {most}"),
        (Some(least), None) => format!("Input should be at least {least}"),
        (None, most) => format!("Input should be at most {}", most.unwrap_or_default()),
    })
}

/// What is wrong with the length of a text.
fn out_of(schema: &MetaSchema, length: usize) -> Option<String> {
    if schema.min_length.is_some_and(|least| length < least) {
        let least = schema.min_length.unwrap_or_default();
        let plural = if least == 1 { "" } else { "s" };
        return Some(format!(
            "String should have at least {least} character{plural}"
        ));
    }
    let most = schema.max_length.filter(|most| length > *most)?;
    Some(format!("String should have at most {most} characters"))
}

#[cfg(test)]
mod tests {
    use poem_openapi::Object;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Object)]
    #[oai(deny_unknown_fields)]
    struct Order {
        #[oai(validator(min_length = 1, max_length = 3))]
        name: String,
        #[oai(validator(minimum(value = "1"), maximum(value = "32")))]
        count: Option<i32>,
        tags: Option<Vec<String>>,
    }

    fn refusals(body: &Value) -> Vec<(String, String)> {
        let refused = read::<Order>(body.to_string().as_bytes()).err();
        refused
            .unwrap_or_default()
            .into_iter()
            .map(|value| (value.name, value.message))
            .collect()
    }

    #[test]
    fn each_field_that_is_wrong_is_named_with_what_would_be_right() {
        for (body, expected) in [
            (json!({"name": "abc", "count": 32, "tags": ["x"]}), vec![]),
            (json!({}), vec![("name", "Field required")]),
            (
                json!({"name": null}),
                vec![("name", "Input should be a valid string")],
            ),
            (
                json!({"name": "", "count": 33}),
                vec![
                    ("name", "String should have at least 1 character"),
                    ("count", "Input should be from 1 to 32"),
                ],
            ),
            (
                json!({"name": "abcd", "count": "2"}),
                vec![
                    ("name", "String should have at most 3 characters"),
                    ("count", "Input should be a valid integer"),
                ],
            ),
            (
                json!({"name": "a", "tags": [{}]}),
                vec![("tags", "Input should be a valid string")],
            ),
            (
                json!({"name": "a", "tags": "x"}),
                vec![("tags", "Input should be a valid list")],
            ),
            (
                json!({"name": "a", "colour": 1}),
                vec![("colour", "There is no such field")],
            ),
            (json!([]), vec![("", "Input should be a JSON object")]),
        ] {
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(name, message): (&str, &str)| (name.to_owned(), message.to_owned()))
                .collect();
            assert_eq!(refusals(&body), expected, "{body}");
        }
        assert!(read::<Order>(b"{").is_err());
    }
}
