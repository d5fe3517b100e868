"""Drives a running Dalston with the official openai package, as a user would, and checks every answer.

    python openai_sdk.py BASE_URL KEY AUDIO EXPECTED_TEXT DIALOGUE

DIALOGUE is a recording of several speakers, DIALOGUE without its extension and with `.json` who says what in it.

Each function is one scenario; the first that fails ends the run with its name and a non-zero status.
"""

import base64
import io
import json
import sys
import urllib.request
import wave
from pathlib import Path

import openai

BASE_URL, KEY, AUDIO, EXPECTED, DIALOGUE = sys.argv[1:6]
client = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key=KEY, max_retries=0, timeout=120)


def audio():
    return open(AUDIO, "rb")


def words(text):
    """Words without case and punctuation: what is compared, since the model may punctuate as it likes."""
    return "".join(c.lower() if c.isalnum() or c == "'" else " " for c in text).split()


def raises(kind, call, **expected):
    try:
        call()
    except kind as error:
        for name, value in expected.items():
            assert getattr(error, name) == value, f"{name} is {getattr(error, name)!r}, not {value!r}: {error}"
        return error
    raise AssertionError(f"no {kind.__name__}")


def json_text():
    result = client.audio.transcriptions.create(file=audio(), model="whisper-1")
    assert words(result.text) == words(EXPECTED), result.text


def plain_text_is_not_a_json_string():
    text = client.audio.transcriptions.create(file=audio(), model="whisper-1", response_format="text")
    assert isinstance(text, str) and words(text) == words(EXPECTED), text
    assert not text.startswith('"')


def subtitles():
    srt = client.audio.transcriptions.create(file=audio(), model="whisper-1", response_format="srt")
    assert srt.startswith("1\n00:00:0") and " --> " in srt, srt
    vtt = client.audio.transcriptions.create(file=audio(), model="whisper-1", response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n"), vtt


def verbose_json_with_words_and_segments():
    result = client.audio.transcriptions.create(
        file=audio(), model="whisper-1", response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert words(result.text) == words(EXPECTED)
    assert result.duration > 0.5, result.duration
    assert result.usage.seconds >= 1, result.usage
    assert words(" ".join(word.word for word in result.words)) == words(EXPECTED)
    starts = [word.start for word in result.words]
    assert starts == sorted(starts) and result.words[-1].end <= result.duration + 0.05, result.words
    segment = result.segments[0]
    assert segment.id == 0 and segment.end > segment.start and segment.tokens, segment
    assert segment.avg_logprob < 0 and 0 <= segment.no_speech_prob < 0.6, segment


def segments_only_when_only_they_are_asked_for():
    result = client.audio.transcriptions.create(
        file=audio(), model="whisper-1", response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert result.segments and not result.words


def streaming():
    events = list(client.audio.transcriptions.create(file=audio(), model="gpt-4o-transcribe", stream=True))
    kinds = [event.type for event in events]
    assert kinds[-1] == "transcript.text.done" and "transcript.text.delta" in kinds, kinds
    deltas = "".join(event.delta for event in events if event.type == "transcript.text.delta")
    assert words(deltas) == words(events[-1].text) == words(EXPECTED), (deltas, events[-1].text)


def dialogue(**options):
    return client.audio.transcriptions.create(
        file=open(DIALOGUE, "rb"), model="gpt-4o-transcribe-diarize", chunking_strategy="auto", **options
    )


def turns():
    return json.loads(Path(DIALOGUE).with_suffix(".json").read_text())["segments"]


def speakers_are_told_apart():
    result = dialogue(response_format="diarized_json")
    assert result.task == "transcribe" and result.duration > 10, result
    assert {segment.type for segment in result.segments} == {"transcript.text.segment"}
    assert len({segment.id for segment in result.segments}) == len(result.segments)
    speakers = {segment.speaker for segment in result.segments}
    assert speakers == set("ABCDEF"[: len({turn["speaker"] for turn in turns()})]), speakers
    assert words(" ".join(segment.text for segment in result.segments)) == words(result.text)


def speakers_are_streamed_segment_by_segment():
    events = list(dialogue(response_format="diarized_json", stream=True))
    segments = [event for event in events if event.type == "transcript.text.segment"]
    deltas = [event for event in events if event.type == "transcript.text.delta"]
    assert [event.id for event in segments] == [event.segment_id for event in deltas]
    assert {event.speaker for event in segments} >= {"A", "B"}
    assert "".join(event.delta for event in deltas) == events[-1].text


def voices_that_are_known_get_their_names():
    names, clips = [], []
    for turn in turns():
        if turn["speaker"] not in names and not turn["overlaps_previous"] and turn["end"] - turn["start"] >= 2.0:
            names.append(turn["speaker"])
            clips.append(clip(turn["start"], turn["end"]))
    called = {name: f"Person {index}" for index, name in enumerate(reversed(names))}
    result = dialogue(
        response_format="diarized_json",
        known_speaker_names=[called[name] for name in names],
        known_speaker_references=clips,
    )
    right = wrong = 0.0
    for segment in result.segments:
        for turn in turns():
            shared = min(segment.end, turn["end"]) - max(segment.start, turn["start"])
            if shared > 0 and segment.speaker == called[turn["speaker"]]:
                right += shared
            elif shared > 0:
                wrong += shared
    assert right > 4 * wrong, (right, wrong, [(segment.speaker, segment.start) for segment in result.segments])
    raises(
        openai.BadRequestError,
        lambda: dialogue(known_speaker_names=["Ann"], known_speaker_references=["https://example.org/ann.wav"]),
        code="invalid_known_speaker_references",
    )


def clip(start, end):
    """A part of the dialogue as a data URL."""
    with wave.open(DIALOGUE) as source:
        rate = source.getframerate()
        source.setpos(int(start * rate))
        frames = source.readframes(int((end - start) * rate))
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as target:
            target.setparams(source.getparams())
            target.writeframes(frames)
    return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()


def language_prompt_and_temperature_are_accepted():
    result = client.audio.transcriptions.create(
        file=audio(), model="whisper-1", language="en", prompt="Minutes of the meeting.", temperature=0
    )
    assert result.text


def our_own_model_ids_work():
    result = client.audio.transcriptions.create(file=audio(), model="whisper-nano", response_format="verbose_json")
    assert words(result.text) == words(EXPECTED)


def translation():
    result = client.audio.translations.create(file=audio(), model="whisper-1", response_format="verbose_json")
    assert result.duration > 0.5 and isinstance(result.text, str), result


def models():
    listed = client.models.list()
    ids = [model.id for model in listed]
    assert "whisper-nano" in ids and "whisper-1" in ids, ids
    assert client.models.retrieve("whisper-nano").object == "model"
    raises(openai.NotFoundError, lambda: client.models.retrieve("org/nothing here"))


def errors_have_the_shape_the_sdk_reads():
    create = client.audio.transcriptions.create
    error = raises(openai.NotFoundError, lambda: create(file=audio(), model="whisper-99"), code="model_not_found")
    assert "whisper-99" in error.message and error.request_id
    raises(
        openai.BadRequestError,
        lambda: create(file=("note.txt", b"this is not audio at all"), model="whisper-1"),
        code="invalid_file_format",
        type="invalid_request_error",
    )
    raises(
        openai.BadRequestError,
        lambda: create(file=audio(), model="whisper-1", response_format="docx"),
        code="invalid_response_format",
    )
    stranger = openai.OpenAI(base_url=f"{BASE_URL}/v1", api_key="sk-nobody", max_retries=0)
    raises(openai.AuthenticationError, lambda: stranger.models.list(), code="invalid_api_key")
    raises(
        openai.AuthenticationError,
        lambda: stranger.audio.transcriptions.create(file=audio(), model="whisper-1"),
        code="invalid_api_key",
    )


def too_large_a_file_is_413():
    oversized = b"RIFF" + bytes(26 * 1024 * 1024)
    error = raises(
        openai.APIStatusError,
        lambda: client.audio.transcriptions.create(file=("big.wav", oversized), model="whisper-1"),
        code="file_too_large",
    )
    assert error.status_code == 413, error.status_code


def rate_limit_headers_are_sent():
    raw = client.audio.transcriptions.with_raw_response.create(file=audio(), model="whisper-1")
    assert int(raw.headers["x-ratelimit-remaining-requests"]) >= 0, dict(raw.headers)
    assert raw.headers["x-request-id"]


def document_is_openapi_3():
    with urllib.request.urlopen(f"{BASE_URL}/openapi.json") as answer:
        assert json.load(answer)["openapi"].startswith("3.")


SCENARIOS = [
    json_text,
    plain_text_is_not_a_json_string,
    subtitles,
    verbose_json_with_words_and_segments,
    segments_only_when_only_they_are_asked_for,
    streaming,
    speakers_are_told_apart,
    speakers_are_streamed_segment_by_segment,
    voices_that_are_known_get_their_names,
    language_prompt_and_temperature_are_accepted,
    our_own_model_ids_work,
    translation,
    models,
    errors_have_the_shape_the_sdk_reads,
    too_large_a_file_is_413,
    rate_limit_headers_are_sent,
    document_is_openapi_3,
]

failed = []
for scenario in SCENARIOS:
    try:
        scenario()
        print(f"ok      {scenario.__name__}")
    except Exception as error:  # noqa: BLE001 - every failure is reported with its scenario
        failed.append(scenario.__name__)
        print(f"FAILED  {scenario.__name__}: {type(error).__name__}: {error}")
sys.exit(1 if failed else 0)
