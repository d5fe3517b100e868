"""Reads every export of one transcript with parsers that others wrote, and checks that nothing was lost.

    python exports.py FOLDER

FOLDER holds `transcript.json`, the transcript, and `transcript.EXTENSION` for every other format, made with lines of 32
characters. Each function is one format; the first that fails ends the run with its name and a non-zero status.
"""

import csv
import html
import json
import re
import sys
from pathlib import Path

import srt
import webvtt
from lrcparser import LrcParser
from rttm_manager import import_rttm

FOLDER = Path(sys.argv[1])
LINE = 32
TRANSCRIPT = json.loads((FOLDER / "transcript.json").read_text())
SEGMENTS = [segment for segment in TRANSCRIPT["segments"] if segment["text"].strip()]
NAMES = {speaker["id"]: speaker["label"] or speaker["id"] for speaker in TRANSCRIPT["speakers"]}


def name(segment):
    return NAMES.get(segment["speaker"])


def letters(text):
    """Text without white space: a word longer than a line is cut without a sign."""
    return "".join(text.split())


def same(found, expected, what, tolerance=0.0006):
    assert abs(found - expected) <= tolerance, f"{what} is {found}, not {expected}"


def check_cues(cues):
    """Cues are (start, end, speaker, text). Each segment is one or more of them, in order, with all its letters."""
    cues = list(cues)
    for segment in SEGMENTS:
        wanted, text, first = letters(segment["text"]), "", cues[0]
        while text != wanted:
            start, end, speaker, part = cues.pop(0)
            assert speaker == name(segment), (speaker, segment)
            assert end > start, (start, end, part)
            text += letters(part)
            assert wanted.startswith(text), (text, wanted)
        same(first[0], segment["start"], "start")
        same(end, max(segment["end"], segment["start"] + 0.001), "end")
    assert not cues, cues


def subrip():
    cues = []
    for subtitle in srt.parse((FOLDER / "transcript.srt").read_text(), ignore_errors=False):
        lines = subtitle.content.split("\n")
        assert len(lines) <= 2, subtitle
        known = [label for label in NAMES.values() if lines[0].startswith(f"[{label}] ")]
        speaker = known[0] if known else None
        content = subtitle.content[len(speaker) + 3 :] if speaker else subtitle.content
        assert all(len(line) <= LINE for line in content.split("\n")), content
        cues.append((subtitle.start.total_seconds(), subtitle.end.total_seconds(), speaker, content))
    check_cues(cues)


def webvtt_with_voices():
    def seconds(time):
        hours, minutes, rest = time.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(rest)

    cues = []
    for caption in webvtt.read(str(FOLDER / "transcript.vtt")):
        voice = html.unescape(caption.voice) if caption.voice else None
        assert len(caption.text.split("\n")) <= 2, caption
        cues.append((seconds(caption.start), seconds(caption.end), voice, html.unescape(caption.text)))
    check_cues(cues)


def tab_separated_values():
    with open(FOLDER / "transcript.tsv", newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab", quoting=csv.QUOTE_NONE))
    assert len(rows) == len(SEGMENTS), rows
    for row, segment in zip(rows, SEGMENTS):
        same(int(row["start"]) / 1000, segment["start"], "start")
        same(int(row["end"]) / 1000, segment["end"], "end")
        assert row["text"] == " ".join(segment["text"].split()), row
        assert row["speaker"] == (name(segment) or ""), row


def rich_transcription_time_marked():
    lines = import_rttm(str(FOLDER / "transcript.rttm"))
    turns = TRANSCRIPT["turns"]
    assert len(lines) == len(turns), lines
    for line, turn in zip(lines, turns):
        assert line.file_id == TRANSCRIPT["job_id"], line
        assert line.speaker_name == NAMES[turn["speaker"]].replace(" ", "_"), line
        same(line.turn_onset, turn["start"], "onset")
        same(line.turn_onset + line.turn_duration, turn["end"], "end of turn", 0.0011)


def lrc():
    lines = LrcParser.parse((FOLDER / "transcript.lrc").read_text())["lrc_lines"]
    said = "".join(letters(str(line.text)) for line in lines)
    for label in sorted(NAMES.values(), key=len, reverse=True):
        said = said.replace(letters(f"{label}:"), "")
    assert said == letters(TRANSCRIPT["text"]), said
    starts = [(line.start_time.minutes * 60 + line.start_time.seconds + line.start_time.microseconds / 1_000_000) for line in lines]
    for segment in SEGMENTS:
        assert any(abs(start - segment["start"]) <= 0.0051 for start in starts), segment


def plain_text():
    text = (FOLDER / "transcript.txt").read_text()
    for label in NAMES.values():
        text = re.sub(f"^{re.escape(label)}: ", "", text, flags=re.MULTILINE)
    assert letters(text) == letters(TRANSCRIPT["text"]), text


for check in (subrip, webvtt_with_voices, tab_separated_values, rich_transcription_time_marked, lrc, plain_text):
    try:
        check()
    except BaseException:
        print(f"failed: {check.__name__}", file=sys.stderr)
        raise
