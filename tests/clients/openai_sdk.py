"""Drives a running Dalston with the official openai package, as a user would, and checks every answer.

    python openai_sdk.py BASE_URL KEY AUDIO EXPECTED_TEXT

Each function is one scenario; the first that fails ends the run with its name and a non-zero status.
"""

import json
import sys
import urllib.request

import openai

BASE_URL, KEY, AUDIO, EXPECTED = sys.argv[1:5]
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
