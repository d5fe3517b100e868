//! What a link says by itself: share links and the download behind them, file names, extensions.

use url::{Host, Url};

/// Extensions that mean audio when the server does not say.
const AUDIO_EXTENSIONS: [&str; 15] = [
    "mp3", "wav", "flac", "ogg", "oga", "opus", "m4a", "aac", "webm", "aiff", "aif", "wma", "mp4",
    "mkv", "amr",
];

/// Turns share links of Google Drive and Dropbox into links to the file itself; other links stay.
#[must_use]
pub fn download_link(mut url: Url) -> Url {
    match url.host_str() {
        Some("drive.google.com" | "docs.google.com") => {
            let Some(id) = drive_id(&url) else {
                return url;
            };
            let mut download = url.clone();
            if download.set_host(Some("drive.google.com")).is_err() {
                return url;
            }
            download.set_path("/uc");
            download
                .query_pairs_mut()
                .clear()
                .append_pair("export", "download")
                .append_pair("id", &id);
            download
        }
        Some("dropbox.com" | "www.dropbox.com") => {
            let kept: Vec<(String, String)> = url
                .query_pairs()
                .filter(|(name, _)| name != "dl")
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect();
            url.query_pairs_mut()
                .clear()
                .extend_pairs(kept)
                .append_pair("dl", "1");
            url
        }
        _ => url,
    }
}

/// The file id in `/file/d/ID/…` or `?id=ID`.
fn drive_id(url: &Url) -> Option<String> {
    let mut segments = url.path_segments()?;
    let by_path = segments
        .by_ref()
        .find(|segment| *segment == "d")
        .and_then(|_| segments.next())
        .filter(|id| !id.is_empty())
        .map(str::to_owned);
    by_path.or_else(|| {
        url.query_pairs()
            .find(|(name, _)| name == "id")
            .map(|(_, id)| id.into_owned())
    })
}

/// Whether the host is this machine by its spelling.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The last segment of the path, decoded; `None` when it is empty.
#[must_use]
pub fn last_segment(url: &Url) -> Option<String> {
    let segment = url.path_segments()?.next_back()?;
    let decoded = decode(segment);
    (!decoded.trim().is_empty()).then_some(decoded)
}

/// The name a link gives a job.
#[must_use]
pub fn display_name(text: &str) -> Option<String> {
    last_segment(&Url::parse(text.trim()).ok()?)
}

/// The file name of a `Content-Disposition`, the extended form first (RFC 6266).
#[must_use]
pub fn disposition_name(value: &str) -> Option<String> {
    let parameters: Vec<(String, &str)> = value
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()))
        .collect();
    let find = |wanted: &str| {
        parameters
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.trim_matches('"'))
    };
    let name = match find("filename*") {
        Some(extended) => decode(extended.rsplit('\'').next().unwrap_or(extended)),
        None => find("filename")?.to_owned(),
    };
    let base = name.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    (!base.is_empty()).then(|| base.to_owned())
}

/// Whether an extension means audio.
#[must_use]
pub fn is_audio_extension(extension: &str) -> bool {
    AUDIO_EXTENSIONS.contains(&extension)
}

/// An extension for a content type.
#[must_use]
pub fn extension_for(content_type: &str) -> &'static str {
    match content_type {
        "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => "wav",
        "audio/flac" | "audio/x-flac" => "flac",
        "audio/ogg" | "application/ogg" => "ogg",
        "audio/opus" => "opus",
        "audio/mp4" | "audio/m4a" | "audio/x-m4a" => "m4a",
        "audio/aac" | "audio/aacp" => "aac",
        "audio/webm" | "video/webm" => "webm",
        "audio/aiff" | "audio/x-aiff" => "aiff",
        "video/mp4" => "mp4",
        "audio/mpeg" | "audio/mp3" => "mp3",
        _ => "bin",
    }
}

fn decode(text: &str) -> String {
    // Form decoding reads `+` as a space, which in a path it is not.
    let plus_kept = text.replace('+', "%2B");
    url::form_urlencoded::parse(plus_kept.replace('&', "%26").replace('=', "%3D").as_bytes())
        .next()
        .map(|(name, _)| name.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn share_links_become_download_links() {
        for (shared, download) in [
            (
                "https://drive.google.com/file/d/1AbC-d_E/view?usp=sharing",
                "https://drive.google.com/uc?export=download&id=1AbC-d_E",
            ),
            (
                "https://docs.google.com/open?id=1AbC",
                "https://drive.google.com/uc?export=download&id=1AbC",
            ),
            (
                "https://www.dropbox.com/s/x/talk.mp3?dl=0",
                "https://www.dropbox.com/s/x/talk.mp3?dl=1",
            ),
            (
                "https://www.dropbox.com/scl/fi/x/talk.mp3?rlkey=k",
                "https://www.dropbox.com/scl/fi/x/talk.mp3?rlkey=k&dl=1",
            ),
            (
                "https://drive.google.com/drive/home",
                "https://drive.google.com/drive/home",
            ),
            (
                "https://example.com/a.wav?dl=0",
                "https://example.com/a.wav?dl=0",
            ),
        ] {
            assert_eq!(
                download_link(Url::parse(shared).unwrap()).as_str(),
                download
            );
        }
    }

    #[test]
    fn names_come_from_the_header_or_the_path() {
        for (value, name) in [
            (
                "attachment; filename=\"talk one.mp3\"",
                Some("talk one.mp3"),
            ),
            (
                "attachment; filename=talk.mp3; filename*=UTF-8''t%C3%A4lk+1.mp3",
                Some("tälk+1.mp3"),
            ),
            (
                "attachment; filename=\"../../etc/talk.mp3\"",
                Some("talk.mp3"),
            ),
            ("attachment", None),
        ] {
            assert_eq!(disposition_name(value).as_deref(), name);
        }
        let named = |url| display_name(url);
        assert_eq!(
            named("https://x.example/a/b%20c+d.wav?e=f").as_deref(),
            Some("b c+d.wav")
        );
        assert_eq!(named("https://x.example/"), None);
    }
}
