//! Forms as they arrive: a multipart body read part by part, or a URL-encoded one.
//!
//! The file of a form is never held: whoever reads the form is given its bytes as a stream. [`Fields`] are the texts.

pub mod fields;
mod pace;

use std::marker::PhantomData;

use poem::http::header;
use poem::{Body, FromRequest, Request, RequestBody};
use poem_openapi::registry::{MetaMediaType, MetaRequest, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use tokio::io::AsyncReadExt;

use crate::error::ApiError;
pub use fields::Fields;

/// Longest text of one field, in bytes.
const FIELD_BYTES: u64 = 4 << 20;
/// Longest text of a whole form, in bytes.
const FORM_BYTES: u64 = 16 << 20;
/// Most parts of a form.
const MAX_PARTS: usize = 1000;

/// A form that has not been read yet. `D` is the documented shape of its fields.
pub struct Form<D> {
    body: FormBody,
    document: PhantomData<fn() -> D>,
}

enum FormBody {
    Multipart(Box<poem::web::Multipart>),
    UrlEncoded(Fields),
}

/// A file in a form.
pub struct FilePart {
    /// Name of the field.
    pub field: String,
    /// Name the client gave the file.
    pub file_name: String,
    /// The bytes.
    pub content: poem::web::Field,
}

impl<D> Form<D> {
    /// Reads texts into `fields` until a file comes, which is to be read before the next call; `None` is the end.
    ///
    /// # Errors
    /// 400 when the form is cut off, broken or too large.
    pub async fn next(&mut self, fields: &mut Fields) -> Result<Option<FilePart>, ApiError> {
        let multipart = match &mut self.body {
            FormBody::UrlEncoded(read) => {
                fields.append(std::mem::take(read));
                return Ok(None);
            }
            FormBody::Multipart(multipart) => multipart,
        };
        while let Some(part) = multipart.next_field().await.map_err(broken)? {
            let field = part.name().unwrap_or_default().to_owned();
            if let Some(file_name) = part.file_name() {
                return Ok(Some(FilePart {
                    field,
                    file_name: file_name.to_owned(),
                    content: part,
                }));
            }
            if fields.len() >= MAX_PARTS {
                return Err(ApiError::bad_request(format!(
                    "The form has more than {MAX_PARTS} fields"
                )));
            }
            let mut text = Vec::new();
            let mut reader = part.into_async_read().take(FIELD_BYTES + 1);
            reader.read_to_end(&mut text).await.map_err(broken)?;
            if text.len() as u64 > FIELD_BYTES || fields.bytes() + text.len() as u64 > FORM_BYTES {
                return Err(ApiError::bad_request(format!(
                    "Form field '{field}' is too long. Texts may have {} MiB each; send audio as 'file' with a filename.",
                    FIELD_BYTES >> 20
                )));
            }
            let text = String::from_utf8(text).map_err(|_| {
                ApiError::bad_request(if field == "file" {
                    "File must have a filename".to_owned()
                } else {
                    format!("Form field '{field}' is not UTF-8 text")
                })
            })?;
            fields.push(field, text);
        }
        Ok(None)
    }
}

fn broken(error: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("The form could not be read: {error}"))
}

impl<'a, D: Type> ApiExtractor<'a> for Form<D> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        D::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = |content_type| MetaMediaType {
            content_type,
            schema: D::schema_ref(),
        };
        Some(MetaRequest {
            description: Some("Fields may come in any order. Files are streamed."),
            content: vec![
                content("multipart/form-data"),
                content("application/x-www-form-urlencoded"),
            ],
            required: true,
        })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        let content_type = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let essence = content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let body = match essence.as_str() {
            "multipart/form-data" => {
                let paced = Body::from_async_read(pace::Paced::new(body.take()?.into_async_read()));
                let multipart = <poem::web::Multipart as FromRequest>::from_request(
                    request,
                    &mut RequestBody::new(paced),
                )
                .await
                .map_err(broken)?;
                FormBody::Multipart(Box::new(multipart))
            }
            "application/x-www-form-urlencoded" => {
                let bytes = body
                    .take()?
                    .into_bytes_limit(FIELD_BYTES as usize)
                    .await
                    .map_err(broken)?;
                let mut fields = Fields::default();
                for (name, value) in url::form_urlencoded::parse(&bytes) {
                    fields.push(name.into_owned(), value.into_owned());
                }
                FormBody::UrlEncoded(fields)
            }
            _ => {
                return Err(ApiError::bad_request(
                    "Send the request as multipart/form-data (or application/x-www-form-urlencoded with 'audio_url')",
                )
                .into());
            }
        };
        Ok(Self {
            body,
            document: PhantomData,
        })
    }
}
