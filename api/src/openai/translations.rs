//! `POST /v1/audio/translations`: speech in any language to English text.

use poem::{Request, Response};
use poem_openapi::{Object, OpenApi};

use super::request::Endpoint;
use super::sync;
use crate::auth::{Caller, Permission};
use crate::document::{FileSchema, OpenAiAnswer, Tag};
use crate::error::ApiError;
use crate::form::Form;
use crate::intake::{Accepted, Call, take_in};
use crate::state::App;

/// The fields of a translation request.
#[derive(Object)]
#[oai(rename = "TranslationForm")]
pub struct TranslationForm {
    /// The audio file, at most 25 MiB.
    file: FileSchema,
    /// `whisper-1`, or any model of this server that translates.
    #[oai(default = "whisper_1")]
    model: String,
    /// English text that conditions style and spelling, at most 224 tokens.
    prompt: Option<String>,
    /// `json`, `text`, `srt`, `verbose_json` or `vtt`.
    #[oai(default = "json")]
    response_format: String,
    /// Sampling temperature, 0–1.
    temperature: Option<f32>,
}

fn whisper_1() -> String {
    "whisper-1".to_owned()
}

fn json() -> String {
    "json".to_owned()
}

/// The translation endpoint.
pub struct TranslationsApi(pub App);

#[OpenApi(tag = "Tag::OpenAi")]
impl TranslationsApi {
    /// Translate speech to English.
    ///
    /// Waits for the text, as long as `DALSTON_SYNC_TIMEOUT_SECONDS` says (300 by default).
    #[oai(path = "/v1/audio/translations", method = "post")]
    async fn create(
        &self,
        caller: Caller,
        request: &Request,
        form: Form<TranslationForm>,
    ) -> Result<OpenAiAnswer, ApiError> {
        self.translate(caller, request, form)
            .await
            .map(OpenAiAnswer)
            .map_err(ApiError::into_openai)
    }
}

impl TranslationsApi {
    async fn translate(
        &self,
        caller: Caller,
        request: &Request,
        form: Form<TranslationForm>,
    ) -> Result<Response, ApiError> {
        caller.require(Permission::JobCreate)?;
        let budget = caller.take_request(&self.0).await?;
        let call = Call::of(caller, request, Endpoint::Translations)?;
        match take_in(&self.0, call, form).await? {
            Accepted::OpenAi { job, request } => sync::answer(&self.0, job, *request, budget).await,
            Accepted::Native { .. } => Err(ApiError::bad_request(
                "Translations are answered in the OpenAI dialect only",
            )),
        }
    }
}
