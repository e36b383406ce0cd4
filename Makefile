# make run    set up .venv, run the main sweep on the bundled model, write runs/README.md, runs/index.html and a page a suite
# make real   fetch a pretrained model once (93 MB), run a small sweep on it, write runs/real/README.md and a page
# make test   set up .venv, lint, types, tests
# make test-all  the same with every method x family x mode of the contracts, where make test takes a covering sample
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: run real test test-all lint type fmt bench report docs clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

run: $(STAMP)
	$(BIN)/kvpress sweep eval/configs/smoke.yaml --jobs 2 --results runs/results
	$(BIN)/kvpress report --results runs/results --out runs

real: $(STAMP)
	$(BIN)/kvpress models get smollm2-135m
	$(BIN)/kvpress sweep eval/configs/real.yaml --jobs 2 --results runs/real/results
	$(BIN)/kvpress report --results runs/real/results --out runs/real

test: lint type
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

test-all: lint type
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile -m "not gpu"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP)
	$(BIN)/mypy

fmt: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/kvpress bench

report: $(STAMP)
	$(BIN)/kvpress report --results leaderboards/results --out leaderboards

docs: $(STAMP)
	$(BIN)/python -m kvpress_eval.report.cards
	$(BIN)/python -m kvpress_eval.report.picture

clean:
	rm -rf $(VENV) build dist *.egg-info
