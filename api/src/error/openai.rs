//! Errors as OpenAI's clients know them.

use poem::http::StatusCode;
use serde_json::json;

use super::ApiError;

impl ApiError {
    /// OpenAI's shape: `{"error":{"message","type","param","code"}}`.
    #[must_use]
    pub fn openai(
        status: StatusCode,
        kind: &str,
        code: Option<&str>,
        message: impl Into<String>,
        param: Option<&str>,
    ) -> Self {
        Self {
            status,
            body: json!({"error": {"message": message.into(), "type": kind, "param": param, "code": code}}),
            headers: Vec::new(),
        }
    }

    /// The same error in OpenAI's shape; one that has it already is kept.
    #[must_use]
    pub fn into_openai(self) -> Self {
        if self.body["error"]["type"].is_string() {
            return self;
        }
        let (kind, code) = openai_kind(self.status);
        let status = match self.status {
            // OpenAI's own services answer a bad form with 400.
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        };
        let param = self.body["detail"][0]["loc"][1].as_str().map(str::to_owned);
        let code = self.body["error"]["message"]["code"]
            .as_str()
            .map_or(code, |code| Some(code.to_owned()));
        let mut error = Self::openai(
            status,
            kind,
            code.as_deref(),
            self.message(),
            param.as_deref(),
        );
        error.headers = self.headers;
        error
    }
}

fn openai_kind(status: StatusCode) -> (&'static str, Option<String>) {
    let (kind, code) = match status.as_u16() {
        401 => ("authentication_error", Some("invalid_api_key")),
        403 => ("permission_error", Some("insufficient_permissions")),
        404 => ("invalid_request_error", Some("not_found")),
        408 => ("timeout_error", Some("timeout")),
        409 => ("invalid_request_error", Some("conflict")),
        413 => ("invalid_request_error", Some("file_too_large")),
        429 => ("rate_limit_error", Some("rate_limit_exceeded")),
        503 => ("server_error", Some("service_unavailable")),
        507 => ("server_error", Some("storage_full")),
        status if status >= 500 => ("server_error", Some("internal_error")),
        _ => ("invalid_request_error", Some("invalid_request")),
    };
    (kind, code.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_keeps_its_message_in_the_openai_shape() {
        let cases = [
            (
                ApiError::bad_request("no"),
                400,
                "no",
                "invalid_request_error",
            ),
            (
                ApiError::unauthorized("Invalid API key"),
                401,
                "Invalid API key",
                "authentication_error",
            ),
            (
                ApiError::missing_permission("job:create"),
                403,
                "Missing required permission: job:create",
                "permission_error",
            ),
            (
                ApiError::invalid_field("temperature", "between 0 and 1", "7"),
                400,
                "between 0 and 1",
                "invalid_request_error",
            ),
            (
                ApiError::storage_full(),
                507,
                "Storage is full. Free space on the object store or delete old jobs, then try again.",
                "server_error",
            ),
        ];
        for (error, status, message, kind) in cases {
            let error = error.into_openai();
            assert_eq!(error.status.as_u16(), status);
            assert_eq!(error.body["error"]["message"], message);
            assert_eq!(error.body["error"]["type"], kind);
        }
    }

    #[test]
    fn a_structured_message_keeps_its_code_in_the_openai_shape() {
        let error = ApiError::structured(
            StatusCode::BAD_GATEWAY,
            json!({"code": "upstream_fetch_failed", "message": "no luck", "upstream_status": "404"}),
        )
        .into_openai();
        assert_eq!(error.body["error"]["code"], "upstream_fetch_failed");
        assert_eq!(error.body["error"]["message"], "no luck");
    }
}
