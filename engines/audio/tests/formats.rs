//! Every format users have is decoded to the same signal: right length, right channel, right moment.

use crate::signal::{Channel, best_match, ffmpeg_is_installed, fixture, prepared, reference};
use dalston_audio::{AudioError, AudioInput, AudioLimits, ChannelMode, probe};

/// One fixture: what it is, and which part of the reference signal each of its channels carries.
struct Case {
    file: &'static str,
    format: &'static str,
    codec: &'static str,
    rate: u32,
    channels: &'static [Channel],
    seconds: f64,
}

use Channel::{Left, Mixed, Right, Silent};

const STEREO: &[Channel] = &[Left, Right];
const MONO: &[Channel] = &[Mixed];

const fn case(
    file: &'static str,
    format: &'static str,
    codec: &'static str,
    rate: u32,
    channels: &'static [Channel],
    seconds: f64,
) -> Case {
    Case {
        file,
        format,
        codec,
        rate,
        channels,
        seconds,
    }
}

const NATIVE: &[Case] = &[
    case("s16.wav", "wav", "pcm_s16le", 16_000, MONO, 1.2),
    case("u8.wav", "wav", "pcm_u8", 8_000, MONO, 1.2),
    case("s24.wav", "wav", "pcm_s24le", 8_000, STEREO, 1.2),
    case("s32.wav", "wav", "pcm_s32le", 8_000, MONO, 0.8),
    case("f32.wav", "wav", "pcm_f32le", 8_000, MONO, 1.2),
    case("f64.wav", "wav", "pcm_f64le", 8_000, MONO, 0.5),
    case("mulaw.wav", "wav", "pcm_mulaw", 8_000, MONO, 1.2),
    case("alaw.wav", "wav", "pcm_alaw", 8_000, MONO, 1.2),
    case("rf64.wav", "wav", "pcm_s16le", 8_000, MONO, 1.2),
    case("hz11025.wav", "wav", "pcm_s16le", 11_025, MONO, 1.2),
    case("adpcm_ms.wav", "wav", "adpcm_ms", 16_000, MONO, 1.2725),
    case(
        "adpcm_ima.wav",
        "wav",
        "adpcm_ima_wav",
        16_000,
        MONO,
        1.275_625,
    ),
    case("s16.aiff", "aiff", "pcm_s16be", 8_000, MONO, 1.2),
    case("mulaw.aifc", "aiff", "pcm_mulaw", 8_000, MONO, 1.2),
    case("s16.au", "au", "pcm_s16be", 8_000, MONO, 1.2),
    case("s16.caf", "caf", "pcm_s16be", 8_000, MONO, 1.2),
    case("flac16.flac", "flac", "flac", 16_000, STEREO, 1.2),
    case("flac24.flac", "flac", "flac", 16_000, MONO, 0.8),
    case("hz192000.flac", "flac", "flac", 192_000, MONO, 0.4),
    case(
        "surround.flac",
        "flac",
        "flac",
        8_000,
        &[Left, Right, Left, Silent, Right, Left],
        0.8,
    ),
    case("cbr.mp3", "mp3", "mp3", 44_100, MONO, 1.2),
    case("vbr.mp3", "mp3", "mp3", 44_100, STEREO, 1.2),
    case("vorbis.ogg", "ogg", "vorbis", 48_000, STEREO, 1.2),
    case("opus.ogg", "ogg", "opus", 48_000, STEREO, 1.2),
    case("flac.ogg", "ogg", "flac", 16_000, MONO, 1.2),
    case("opus.webm", "matroska", "opus", 48_000, STEREO, 1.2),
    case("vorbis.webm", "matroska", "vorbis", 48_000, MONO, 1.2),
    case("pcm.mkv", "matroska", "pcm_s16le", 8_000, MONO, 1.2),
    case("aac.m4a", "mp4", "aac", 44_100, STEREO, 1.2),
    case("alac.m4a", "mp4", "alac", 16_000, MONO, 1.2),
    case("opus.mp4", "mp4", "opus", 48_000, MONO, 1.2),
    case("video.mp4", "mp4", "aac", 32_000, STEREO, 1.2),
    case("pcm.mov", "mp4", "pcm_s16le", 8_000, MONO, 1.2),
];

/// Formats whose container tells neither the encoder's delay nor its padding, late by up to this; and one of low quality.
const LOOSE: &[(Case, f64)] = &[
    (case("noxing.mp3", "mp3", "mp3", 16_000, MONO, 1.2), 0.2),
    (case("fragmented.mp4", "mp4", "aac", 16_000, MONO, 1.2), 0.1),
    (
        case("video.mkv", "matroska", "mp3", 48_000, STEREO, 1.2),
        0.03,
    ),
    (
        case(
            "surround.opus",
            "ogg",
            "opus",
            48_000,
            &[Left, Left, Right, Right, Left, Silent],
            1.2,
        ),
        0.0,
    ),
    (case("adts.aac", "adts", "aac", 44_100, MONO, 1.2), 0.1),
    // Its packet table counts the last packet as a full one.
    (case("alac.caf", "caf", "alac", 16_000, MONO, 1.28), 0.08),
];

const EXTERNAL: &[Case] = &[
    case("wma.wma", "asf", "Windows Media (WMA)", 16_000, MONO, 1.2),
    case("ac3.ac3", "ac3", "AC-3", 48_000, MONO, 1.2),
    case(
        "ts.ts",
        "mpegts",
        "MPEG transport stream",
        32_000,
        MONO,
        1.2,
    ),
    case("speex.ogg", "ogg", "Speex", 16_000, MONO, 1.2),
    case("wavpack.wv", "wv", "WavPack", 8_000, MONO, 1.2),
    case(
        "mp2.mp2",
        "mp3",
        "MPEG audio layer I or II",
        32_000,
        MONO,
        1.2,
    ),
    case("gsm.wav", "wav", "WAV codec 0x31", 8_000, MONO, 1.2),
    case(
        "surround.m4a",
        "mov",
        "aac in mp4",
        48_000,
        &[Left, Right, Left, Silent, Right, Left],
        1.2,
    ),
];

fn check(case: &Case, late: f64, least: f64) {
    let file = case.file;
    let facts = probe(fixture(file), &AudioLimits::default())
        .unwrap_or_else(|error| panic!("{file}: {error}"));
    assert_eq!(
        (
            facts.format.as_str(),
            facts.codec.as_str(),
            facts.sample_rate,
            usize::from(facts.channels)
        ),
        (case.format, case.codec, case.rate, case.channels.len()),
        "{file}"
    );
    // Matroska states times to the millisecond, and not how much of its last packet is padding.
    let loose = late
        + if case.format == "matroska" {
            0.03
        } else {
            0.005
        };
    assert!(
        (facts.duration - case.seconds).abs() <= loose,
        "{file}: probed {} s",
        facts.duration
    );
    let (done, tracks) = prepared(fixture(file), ChannelMode::Split)
        .unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(
        (done.facts.duration - facts.duration).abs() <= 0.03 + late,
        "{file}: {} s prepared, {} s probed",
        done.facts.duration,
        facts.duration
    );
    assert_eq!(done.facts.damaged, 0.0, "{file}");
    assert_eq!(tracks.len(), case.channels.len(), "{file}");
    let reach = 20 + (late * 16_000.0) as usize;
    for (index, (track, channel)) in tracks.iter().zip(case.channels).enumerate() {
        if *channel == Silent {
            assert!(
                track.iter().all(|sample| sample.abs() < 0.01),
                "{file} channel {index} is not silent"
            );
            continue;
        }
        let (lag, correlation) = best_match(&reference(*channel, track.len()), track, reach);
        assert!(
            correlation > least,
            "{file} channel {index}: correlation {correlation} at {lag}"
        );
        assert!(
            lag.abs() <= 8 + (late * 16_000.0) as i64,
            "{file} channel {index}: {lag} samples off"
        );
    }
}

/// Checks every case and names all that fail.
fn check_all(cases: &[Case], late: f64, least: f64) {
    let failed: Vec<&str> = cases
        .iter()
        .filter(|case| std::panic::catch_unwind(|| check(case, late, least)).is_err())
        .map(|case| case.file)
        .collect();
    assert_eq!(failed, [""; 0]);
}

#[test]
fn every_native_format_gives_the_signal_that_was_encoded() {
    check_all(NATIVE, 0.0, 0.99);
}

#[test]
fn formats_without_a_delay_field_are_late_by_the_codec_alone() {
    for (case, late) in LOOSE {
        check(case, *late, 0.95);
    }
}

#[test]
fn formats_that_rust_cannot_decode_go_through_ffmpeg_or_say_that_it_is_missing() {
    if ffmpeg_is_installed() {
        check_all(EXTERNAL, 0.1, 0.94);
    } else {
        for case in EXTERNAL {
            let error = probe(fixture(case.file), &AudioLimits::default()).unwrap_err();
            assert!(
                matches!(error, AudioError::FfmpegMissing { .. }),
                "{}: {error}",
                case.file
            );
            assert!(error.to_string().contains("install ffmpeg"), "{error}");
        }
    }
}

#[test]
fn an_input_without_a_path_is_decoded_all_the_same() {
    for case in NATIVE.iter().chain(EXTERNAL) {
        if case.format == "mp4" || case.format == "asf" && ffmpeg_is_installed() {
            let bytes = std::fs::read(crate::signal::path(case.file)).unwrap();
            let input = AudioInput::new(std::io::Cursor::new(bytes)).unwrap();
            assert_eq!(
                probe(input, &AudioLimits::default()).unwrap().codec,
                case.codec
            );
        }
    }
}

#[test]
fn video_without_sound_is_refused_by_name() {
    let error = probe(fixture("silent_video.mp4"), &AudioLimits::default()).unwrap_err();
    assert!(
        error.to_string().contains("holds no audio track"),
        "{error}"
    );
    assert!(error.is_client_error());
}

#[test]
fn an_edit_list_takes_the_start_away_and_times_count_from_there() {
    let (_, tracks) = prepared(fixture("trimmed.m4a"), ChannelMode::Mix).unwrap();
    let (found, whole) = (&tracks[0], reference(Mixed, 19_200));
    let cut = whole.len() - found.len().min(whole.len());
    let (lag, correlation) = best_match(&whole[cut..], found, 400);
    assert!(
        correlation > 0.95 && lag.abs() < 400,
        "{correlation} at {lag} after {cut}"
    );
    let seconds = found.len() as f64 / 16_000.0;
    assert!(
        (seconds
            - probe(fixture("trimmed.m4a"), &AudioLimits::default())
                .unwrap()
                .duration)
            .abs()
            < 0.03
    );
}

#[test]
fn a_hole_in_the_containers_clock_is_silence_and_not_a_shift() {
    let (done, tracks) = prepared(fixture("gap.webm"), ChannelMode::Mix).unwrap();
    // Its encoder moved samples within a packet at the edges, so loudness is compared and not the wave.
    let loudness = |samples: &[f32]| -> Vec<f32> {
        let frames = samples.chunks(320);
        frames
            .map(|frame| {
                frame
                    .iter()
                    .map(|sample| sample * sample)
                    .sum::<f32>()
                    .sqrt()
            })
            .collect()
    };
    let mut expected = reference(Mixed, tracks[0].len());
    expected[6_900..13_300].fill(0.0);
    let (lag, correlation) = best_match(&loudness(&expected), &loudness(&tracks[0]), 5);
    assert!(correlation > 0.98 && lag == 0, "{correlation} at {lag}");
    assert!(tracks[0][7_200..12_800].iter().all(|sample| *sample == 0.0));
    let facts = probe(fixture("gap.webm"), &AudioLimits::default()).unwrap();
    assert!(
        (facts.duration - 1.2).abs() < 0.03 && (done.facts.duration - 1.2).abs() < 0.03,
        "{facts:?}"
    );
}

#[test]
fn sound_that_starts_after_the_picture_keeps_its_time() {
    for file in ["late.mp4", "late.mkv"] {
        let (done, tracks) = prepared(fixture(file), ChannelMode::Mix).unwrap();
        let (lag, correlation) = best_match(&reference(Mixed, 19_200), &tracks[0], 12_000);
        assert!(
            correlation > 0.97 && (lag - 9_600).abs() < 640,
            "{file}: {correlation} at {lag}"
        );
        let facts = probe(fixture(file), &AudioLimits::default()).unwrap();
        assert!((facts.duration - 1.8).abs() < 0.04, "{file}: {facts:?}");
        assert!(
            (done.facts.duration - facts.duration).abs() < 0.04,
            "{file}: {:?}",
            done.facts
        );
    }
}

/// Telephone recordings; the fixture is noise, as nothing free encodes AMR.
#[test]
fn amr_decodes_in_its_own_container_and_in_3gp() {
    for (file, words) in [("amr.amr", "AMR"), ("amr.3gp", "in mp4")] {
        match probe(fixture(file), &AudioLimits::default()) {
            Ok(facts) => {
                assert!(facts.codec.contains(words), "{facts:?}");
                assert_eq!((facts.sample_rate, facts.channels), (8_000, 1));
                assert!((facts.duration - 1.2).abs() < 0.03, "{facts:?}");
            }
            Err(error) => assert!(
                !ffmpeg_is_installed() && matches!(error, AudioError::FfmpegMissing { .. }),
                "{error}"
            ),
        }
    }
}

#[test]
fn ffmpeg_is_killed_at_its_deadline_and_on_drop() {
    if !ffmpeg_is_installed() {
        return;
    }
    let limits = AudioLimits {
        external_seconds: 0,
        ..AudioLimits::default()
    };
    let error = probe(fixture("wma.wma"), &limits).unwrap_err();
    assert!(
        matches!(error, AudioError::TimedOut { seconds: 0 }),
        "{error}"
    );

    // Its output is larger than the pipe, so it waits for a reader that never comes.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("waits.wma");
    std::fs::copy(crate::signal::path("wma.wma"), &copy).unwrap();
    let running = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
            .any(|line| {
                line.windows(folder.path().as_os_str().len())
                    .any(|part| part == folder.path().as_os_str().as_encoded_bytes())
            })
    };
    let decoder =
        dalston_audio::Decoder::open(AudioInput::open(&copy).unwrap(), &AudioLimits::default())
            .unwrap();
    assert!(running());
    drop(decoder);
    assert!(!running());
}
