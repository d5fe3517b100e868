# Dalston's commands. `make help` lists them. Every target gets what it needs by itself.

PYTHON ?= python3
CARGO ?= cargo
DALSTON = target/release/dalston

# A server that set-up fetched lies where only we look: the tests' own fixture is told. Asked when the recipe runs.
FETCHED_POSTGRES = env $$(ls -d $(CURDIR)/.runtime/postgresql/bin /opt/dalston/postgresql/bin 2>/dev/null | head -n 1 | sed 's/^/DALSTON_TEST_PG_BIN=/')

.DEFAULT_GOAL := help
.PHONY: help setup setup-test build run demo test lint bench bench-queue bench-asr bench-diarization bench-scaling test-long smoke clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## get PostgreSQL binaries and ONNX Runtime if this machine lacks them
	@$(PYTHON) scripts/setup.py

setup-test: ## get what the test suite talks to as well (openai package, pgbouncer, ffmpeg)
	@$(PYTHON) scripts/setup.py --test

build: setup ## get what is missing and make target/release/dalston
	$(CARGO) build --release --locked --workspace --bins

run: build ## build and start everything: database, API and a worker (stop with Ctrl-C)
	@exec $(DALSTON) serve

demo: build ## transcribe a bundled recording through the product: text, SRT and timing
	@$(PYTHON) scripts/demo.py

test: setup-test ## run the whole test suite on its own PostgreSQL
	$(CARGO) build --locked --workspace --bins
	$(FETCHED_POSTGRES) $(CARGO) test --locked --workspace

lint: setup-test ## formatting, clippy, documentation, scripts and compose.yaml; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	$(PYTHON) scripts/lint.py
	.venv/bin/python scripts/check_compose.py

smoke: build ## start the product on an empty data folder, transcribe, stop, and check that nothing is left
	@$(PYTHON) scripts/smoke.py

bench: bench-queue bench-asr bench-diarization bench-scaling ## run every benchmark; results go to bench/out

bench-queue: build ## task engine: throughput against the bare claim-and-delete floor, claim latency
	$(FETCHED_POSTGRES) $(CARGO) run --release --locked -p dalston-bench-queue

bench-asr: build ## Whisper and Parakeet: throughput against other engines on the same weights and audio
	$(PYTHON) bench/asr/run.py

bench-diarization: build ## speakers: throughput against pyannote on the same weights and audio
	$(PYTHON) bench/diarization/run.py

bench-scaling: build ## one long file on 1 to 16 workers, against the ideal; cost of cutting it
	$(PYTHON) bench/scaling/run.py

test-long: build ## what takes too long for `make test`: ten minutes and three hours with words and speakers
	$(PYTHON) scripts/test_long.py

clean: ## remove build output and benchmark results (data, models and fetched programs stay)
	$(CARGO) clean
	rm -rf bench/out
