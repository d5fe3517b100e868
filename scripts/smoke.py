#!/usr/bin/env python3
"""`make run` as a user meets it: an empty data folder, a first start, a transcript by curl's way and by the command line,
SIGTERM, nothing left behind; then kill -9 and a start that recovers by itself."""

import json
import re
import signal
import time
import urllib.request
import uuid

from product import SAMPLE, Product, expected_text


def check(truth, message):
    if not truth:
        raise SystemExit(f"smoke: {message}")


def words(text):
    return re.sub(r"[^a-z0-9' ]", "", text.lower()).split()


def upload(product, key):
    """Posts the sample the way curl -F does and waits for its transcript."""
    boundary = uuid.uuid4().hex
    body = (
        f"--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{SAMPLE.name}\"\r\nContent-Type: audio/wav\r\n\r\n"
    ).encode() + SAMPLE.read_bytes() + f"\r\n--{boundary}--\r\n".encode()  # fmt: skip
    headers = {"Authorization": f"Bearer {key}", "Content-Type": f"multipart/form-data; boundary={boundary}"}
    job = request(f"{product.url}/v1/audio/transcriptions", headers, body)
    deadline = time.monotonic() + 120
    while job["status"] not in ("completed", "failed", "cancelled"):
        check(time.monotonic() < deadline, f"job {job['id']} is still {job['status']} after 120 s\n{product.output()}")
        time.sleep(0.1)
        job = request(f"{product.url}/v1/audio/transcriptions/{job['id']}", headers)
    check(job["status"] == "completed", f"job {job['id']} {job['status']}: {job.get('error')}")
    return job["text"]


def request(url, headers, body=None):
    with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers), timeout=60) as answer:
        return json.load(answer)


def main():
    expected = words(expected_text(SAMPLE))
    with Product() as product:
        product.start(["make", "--silent", "run"], timeout=900)
        print(f"smoke: make run on an empty data folder answers after {product.start_seconds:.2f} s")
        key = product.admin_key()
        check("/docs" in product.output(), "the documentation's address is not printed")
        check(words(upload(product, key)) == expected, "the uploaded sample's text is wrong")
        check(words(product.client("transcribe", str(SAMPLE))) == expected, "dalston transcribe's text is wrong")
        check(product.stop() == 0, f"exit code {product.process.returncode} after SIGTERM\n{product.output()}")
        check(product.processes() == [], f"left behind after SIGTERM: {product.processes()}")
        print("smoke: transcribed twice, stopped cleanly")

        product.start()
        print(f"smoke: warm start {product.start_seconds:.2f} s")
        check(product.output().count(key) == 1, "the admin key is printed more than once")
        product.process.send_signal(signal.SIGKILL)
        product.process.wait()
        product.start()
        print(f"smoke: start after kill -9 {product.start_seconds:.2f} s")
        check(words(product.client("transcribe", str(SAMPLE))) == expected, "the text after kill -9 is wrong")
        check(product.stop(signal.SIGINT) == 0, f"exit code {product.process.returncode} after SIGINT\n{product.output()}")
        check(product.processes() == [], f"left behind after SIGINT: {product.processes()}")
        print("smoke: recovered, transcribed, stopped cleanly")


if __name__ == "__main__":
    main()
