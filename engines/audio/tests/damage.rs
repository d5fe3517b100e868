//! Cut, damaged and untruthful files: each is answered with a clear refusal or decoded, never with a panic, a hang or a lie.

use std::time::{Duration, Instant};

use crate::signal::{in_memory, path, prepared};
use dalston_audio::{AudioError, AudioFacts, AudioLimits, ChannelMode, probe};

/// Files whose headers promise a length.
const PROMISING: &[&str] = &[
    "s16.wav",
    "u8.wav",
    "s24.wav",
    "f64.wav",
    "mulaw.wav",
    "rf64.wav",
    "adpcm_ms.wav",
    "s16.aiff",
    "mulaw.aifc",
    "s16.au",
    "s16.caf",
    "alac.caf",
    "flac16.flac",
    "flac24.flac",
    "cbr.mp3",
    "vbr.mp3",
    "vorbis.ogg",
    "opus.ogg",
    "flac.ogg",
    "opus.webm",
    "vorbis.webm",
    "video.mkv",
    "pcm.mkv",
    "aac.m4a",
    "alac.m4a",
    "opus.mp4",
    "video.mp4",
    "pcm.mov",
    "fragmented.mp4",
];

/// Files of frames without any promise: what is there is what there is.
const UNPROMISING: &[&str] = &["noxing.mp3", "adts.aac"];

fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

fn probe_bytes(bytes: Vec<u8>) -> Result<AudioFacts, AudioError> {
    probe(in_memory(bytes), &AudioLimits::default())
}

/// The refusal of a file that must be refused; it is the client's to fix.
fn refusal(bytes: Vec<u8>) -> String {
    let error = probe_bytes(bytes).expect_err("the file was accepted");
    assert!(error.is_client_error(), "{error}");
    error.to_string()
}

/// A small generator, so that a failure can be replayed from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

#[test]
fn a_file_cut_in_half_is_called_truncated() {
    for name in PROMISING {
        let bytes = read(name);
        let message = refusal(bytes[..bytes.len() / 2].to_vec());
        assert!(
            message.starts_with("Unable to read audio file: "),
            "{name}: {message}"
        );
        assert!(
            message.contains("truncated") || message.contains("moov"),
            "{name}: {message}"
        );
        assert!(
            message.ends_with("(MP3, WAV, FLAC, OGG, M4A)."),
            "{name}: {message}"
        );
    }
}

#[test]
fn a_file_of_frames_cut_in_half_is_half_as_long() {
    for name in UNPROMISING {
        let bytes = read(name);
        let whole = probe_bytes(bytes.clone()).unwrap().duration;
        let half = probe_bytes(bytes[..bytes.len() / 2].to_vec())
            .unwrap()
            .duration;
        assert!(
            (half - whole / 2.0).abs() < 0.15,
            "{name}: {half} of {whole} s"
        );
    }
}

/// Probes; what is accepted must decode too, and to the length that was told.
fn check_survives(name: &str, what: &str, bytes: &[u8]) {
    let started = Instant::now();
    match probe_bytes(bytes.to_vec()) {
        Err(error) => assert!(error.is_client_error(), "{name}, {what}: {error:?}"),
        Ok(facts) => {
            assert!(
                (0.1..=36_001.0).contains(&facts.duration),
                "{name}, {what}: {facts:?}"
            );
            // Hours of silence may be a valid reading of a flipped clock; they are not worth the time here.
            if facts.duration < 60.0 {
                let (done, _) = prepared(in_memory(bytes.to_vec()), ChannelMode::Mix)
                    .unwrap_or_else(|error| {
                        panic!("{name}, {what}: accepted as {facts:?}, then {error}")
                    });
                let difference = (done.facts.duration - facts.duration).abs();
                assert!(
                    difference < 0.3 + 0.1 * facts.duration,
                    "{name}, {what}: probed {facts:?}, prepared {:?}",
                    done.facts
                );
            }
        }
    }
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{name}, {what}: took {:?}",
        started.elapsed()
    );
}

#[test]
fn a_file_cut_anywhere_is_refused_or_decodes() {
    for name in PROMISING.iter().chain(UNPROMISING) {
        let bytes = read(name);
        let mut random = Random(bytes.len() as u64);
        for _ in 0..24 {
            let cut = random.below(bytes.len());
            check_survives(name, &format!("cut at {cut}"), &bytes[..cut]);
        }
        for cut in [1, 4, 11, 12, 40, bytes.len() - 1] {
            check_survives(name, &format!("cut at {cut}"), &bytes[..cut]);
        }
    }
}

#[test]
fn a_file_with_flipped_bytes_is_refused_or_decodes() {
    for name in PROMISING.iter().chain(UNPROMISING) {
        let original = read(name);
        for seed in 0..40 {
            let mut random = Random(seed);
            let mut bytes = original.clone();
            // Every other time the damage is in the header, where it hurts.
            let reach = if seed % 2 == 0 {
                bytes.len()
            } else {
                bytes.len().min(600)
            };
            for _ in 0..1 + random.below(8) {
                let place = random.below(reach);
                bytes[place] = random.below(256) as u8;
            }
            check_survives(name, &format!("flipped with seed {seed}"), &bytes);
        }
    }
}

#[test]
fn noise_and_zeros_are_not_audio() {
    let mut random = Random(7);
    for length in [1, 2, 3, 10, 100, 5_000, 300_000] {
        let noise: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        refusal(noise);
        refusal(vec![0; length]);
        refusal(vec![0xff; length]);
    }
}

#[test]
fn what_is_not_audio_is_called_by_its_name() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"PK\x03\x04\x14\0\0\0", "a ZIP archive"),
        (b"This is a transcript, not a recording.\n", "it is text"),
        (b"<!DOCTYPE html><html>Not found</html>", "it is text"),
        ("Grüße".as_bytes(), "it is text"),
        (b"#EXTM3U\n/etc/passwd\n", "a playlist"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "a WebP image"),
    ];
    for (bytes, words) in cases {
        let message = refusal(bytes.to_vec());
        assert!(message.contains(words), "{message}");
    }
}

/// A WAV header in front of `data`; `data_size` is what the header claims.
fn wav(channels: u16, rate: u32, bits: u16, data_size: u32, data: &[u8]) -> Vec<u8> {
    let block = channels.wrapping_mul(bits / 8);
    let mut bytes = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0".to_vec();
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend(rate.wrapping_mul(u32::from(block)).to_le_bytes());
    bytes.extend(block.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend(data_size.to_le_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn headers_that_claim_the_impossible_are_refused() {
    let second = vec![0; 32_000];
    assert!(refusal(wav(0, 16_000, 16, 32_000, &second)).contains("0 channels"));
    assert!(refusal(wav(1_000, 16_000, 16, 32_000, &second)).contains("1000 channels"));
    assert!(refusal(wav(1, 0, 16, 32_000, &second)).contains("0 Hz"));
    assert!(refusal(wav(1, 4_000_000_000, 16, 32_000, &second)).contains("4000000000 Hz"));
    assert!(
        refusal(wav(1, 16_000, 16, 64_000, &second))
            .contains("truncated: its header promises 64000 bytes of audio, 32000 are there")
    );
    assert!(refusal(wav(1, 16_000, 77, 32_000, &second)).contains("contradicts itself"));
    assert!(refusal(b"RIFF\0\0\0\0WAVE".to_vec()).contains("neither format nor samples"));
}

#[test]
fn a_header_that_was_never_completed_is_not_held_against_the_recording() {
    let second = vec![0; 32_000];
    for size in [0, u32::MAX, u32::MAX - 44] {
        assert_eq!(
            probe_bytes(wav(1, 16_000, 16, size, &second))
                .unwrap()
                .duration,
            1.0
        );
    }
    // Chunks behind the samples are not samples.
    let mut tagged = second.clone();
    tagged.extend(b"LIST\x04\0\0\0INFO");
    assert_eq!(
        probe_bytes(wav(1, 16_000, 16, 32_000, &tagged))
            .unwrap()
            .duration,
        1.0
    );
}

#[test]
fn length_limits_hold_at_both_ends() {
    assert!(probe_bytes(wav(1, 16_000, 16, 3_200, &[0; 3_200])).is_ok());
    let short = refusal(wav(1, 16_000, 16, 3_198, &[0; 3_198]));
    assert!(
        short.starts_with("Audio too short: 0.100 s; the minimum is 0.1 s"),
        "{short}"
    );
    assert!(refusal(wav(1, 16_000, 16, 0, &[])).starts_with("Audio too short: 0.000 s"));

    let limits = AudioLimits {
        max_duration: 1.0,
        ..AudioLimits::default()
    };
    for name in PROMISING {
        // The two shorter fixtures fit.
        let error = probe(in_memory(read(name)), &limits).err();
        let fits = matches!(*name, "f64.wav" | "flac24.flac");
        assert_eq!(error.is_none(), fits, "{name}: {error:?}");
        let message = error.map_or(String::from("Audio too long: at least"), |error| {
            error.to_string()
        });
        assert!(
            message.starts_with("Audio too long: at least"),
            "{name}: {message}"
        );
    }
}

#[test]
fn a_small_file_of_endless_silence_is_refused_at_the_limit() {
    // One silent MPEG-2.5 layer III frame of 8 kbit/s at 8 kHz is 72 bytes for 72 ms.
    let mut frame = vec![0xff, 0xe3, 0x18, 0xc4];
    frame.resize(72, 0);
    let hours = |hours: usize| frame.repeat(hours * 50_000);
    let started = Instant::now();
    assert!(
        refusal(hours(11))
            .starts_with("Audio too long: at least 36000 s; the maximum is 36000 s (10.0 h)")
    );
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!((probe_bytes(hours(1)).unwrap().duration - 3_600.0).abs() < 0.2);
}

#[test]
fn tags_in_front_of_and_behind_the_audio_are_skipped() {
    for name in ["cbr.mp3", "adts.aac", "flac16.flac", "s16.wav"] {
        let plain = probe_bytes(read(name)).unwrap();
        let mut tagged = b"ID3\x04\0\0\0\0\x08\0".to_vec();
        tagged.resize(10 + 1_024, 0);
        tagged.extend(read(name));
        if name.ends_with("mp3") {
            tagged.extend(b"TAG");
            tagged.resize(tagged.len() + 125, b' ');
        }
        assert_eq!(probe_bytes(tagged).unwrap(), plain, "{name}");
    }
}

#[test]
fn a_bad_frame_here_and_there_costs_a_moment_of_silence_and_not_the_file() {
    let mut bytes = read("flac16.flac");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    let whole = probe_bytes(read("flac16.flac")).unwrap();
    let facts = probe_bytes(bytes.clone()).unwrap();
    assert!((facts.duration - whole.duration).abs() < 1e-9, "{facts:?}");
    let (done, _) = prepared(in_memory(bytes), ChannelMode::Mix).unwrap();
    assert!(
        (done.facts.duration - whole.duration).abs() < 1e-9,
        "{:?}",
        done.facts
    );
    assert!(
        done.facts.damaged > 0.05 && done.facts.damaged < 0.5,
        "{:?}",
        done.facts
    );
}

#[test]
fn a_header_that_misstates_its_packets_is_caught_by_decoding_some() {
    let mut bytes = read("alac.caf");
    // Frames per packet, in the audio description: 4096 becomes 65536.
    let description = bytes
        .windows(4)
        .position(|window| window == b"desc")
        .unwrap();
    let field = description + 12 + 20;
    assert_eq!(bytes[field..field + 4], 4_096_u32.to_be_bytes());
    bytes[field..field + 4].copy_from_slice(&65_536_u32.to_be_bytes());
    assert!(refusal(bytes).contains("misstates how long the packets"));
}

#[test]
fn a_container_that_misstates_the_sample_rate_is_corrected_by_the_audio() {
    let mut bytes = read("video.mkv");
    let whole = probe_bytes(bytes.clone()).unwrap();
    // SamplingFrequency, an eight-byte float: 48000 becomes 8000.
    let field = bytes
        .windows(2)
        .position(|window| window == b"\xb5\x88")
        .unwrap()
        + 2;
    assert_eq!(bytes[field..field + 8], 48_000_f64.to_be_bytes());
    bytes[field..field + 8].copy_from_slice(&8_000_f64.to_be_bytes());
    let facts = probe_bytes(bytes).unwrap();
    assert_eq!(facts.sample_rate, 48_000);
    assert!((facts.duration - whole.duration).abs() < 0.05, "{facts:?}");
}

/// A source whose storage fails.
struct Broken {
    inner: std::io::Cursor<Vec<u8>>,
    from: u64,
}

impl std::io::Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.inner.position() + buffer.len() as u64 > self.from {
            return Err(std::io::Error::other("the bucket is gone"));
        }
        self.inner.read(buffer)
    }
}

impl std::io::Seek for Broken {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

#[test]
fn failing_storage_is_never_blamed_on_the_file() {
    for name in PROMISING.iter().chain(UNPROMISING) {
        for share in [0, 2] {
            let bytes = read(name);
            let from = bytes.len() as u64 * share / 4;
            let broken = Broken {
                inner: std::io::Cursor::new(bytes),
                from,
            };
            let input = dalston_audio::AudioInput::new(broken).unwrap();
            let error = probe(input, &AudioLimits::default()).expect_err(name);
            assert!(!error.is_client_error(), "{name}: {error}");
            assert!(
                error.to_string().contains("the bucket is gone"),
                "{name}: {error}"
            );
        }
    }
}
