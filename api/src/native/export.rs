//! `GET …/{job_id}/export/{format}`: the transcript as a file.

use dalston_schema::JobStatus;
use dalston_schema::db::jobs;
use poem::http::{HeaderValue, header};
use poem::{IntoResponse, Response};
use poem_openapi::OpenApi;
use poem_openapi::param::{Path, Query};
use serde_json::json;
use uuid::Uuid;

use super::transcriptions::readable;
use crate::auth::Caller;
use crate::document::{File, Tag};
use crate::error::ApiError;
use crate::export::{self, Format, Options};
use crate::state::App;

/// The export endpoint.
pub struct ExportApi(pub App);

#[OpenApi(tag = "Tag::Transcriptions")]
impl ExportApi {
    /// Export a transcript.
    ///
    /// `srt`, `vtt` (or `webvtt`), `txt`, `json`, `tsv`, `rttm` or `lrc`.
    #[oai(
        path = "/v1/audio/transcriptions/:job_id/export/:format",
        method = "get"
    )]
    async fn export(
        &self,
        caller: Caller,
        job_id: Path<Uuid>,
        format: Path<String>,
        /// Write who speaks.
        include_speakers: Query<Option<String>>,
        /// Longest line, in characters.
        #[oai(
            default = "forty_two",
            validator(minimum(value = "10"), maximum(value = "200"))
        )]
        max_line_length: Query<u32>,
        /// Most lines in one cue.
        #[oai(
            default = "two",
            validator(minimum(value = "1"), maximum(value = "10"))
        )]
        max_lines: Query<u32>,
    ) -> Result<File, ApiError> {
        let job = readable(&self.0, &caller, job_id.0).await?;
        let format = Format::parse(&format.0).ok_or_else(|| {
            let known = Format::ALL.map(Format::extension).join(", ");
            ApiError::bad_request(format!(
                "Unsupported format: {}. Supported formats: {known}",
                format.0
            ))
        })?;
        if job.status != JobStatus::Completed {
            return Err(ApiError::bad_request(format!(
                "Job not completed. Current status: {}",
                job.status
            )));
        }
        let options = Options {
            include_speakers: read_bool("include_speakers", include_speakers.0.as_deref())?,
            max_line_length: max_line_length.0 as usize,
            max_lines: max_lines.0 as usize,
        };
        let transcript = jobs::transcript(&self.0.pool, job.id).await?;
        let text = export::render(format, transcript.as_ref(), options);
        let detail = json!({"format": format.extension()});
        caller
            .audit(
                &self.0,
                "transcript.exported",
                ("job", job.id.to_string()),
                Some(detail),
            )
            .await;
        Ok(File(attachment(format, text)))
    }
}

fn forty_two() -> u32 {
    42
}

fn two() -> u32 {
    2
}

fn read_bool(name: &str, text: Option<&str>) -> Result<bool, ApiError> {
    match text.unwrap_or("true").to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        other => Err(ApiError::invalid_query(
            name,
            "Input should be a valid boolean",
            other,
        )),
    }
}

fn attachment(format: Format, text: String) -> Response {
    let mut response = text
        .with_content_type(format.content_type())
        .into_response();
    let name = format!("attachment; filename=\"transcript.{}\"", format.extension());
    if let Ok(value) = HeaderValue::from_str(&name) {
        response
            .headers_mut()
            .insert(header::CONTENT_DISPOSITION, value);
    }
    response
}
