# Every target of this file explains itself: make help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
DEMO := models/digits_cnn.onnx
DATA := models/digits_eval.npz
ROUNDS ?= 3
CASES ?= 500
SEED ?= 0

.DEFAULT_GOAL := help
.PHONY: help demo install dev test check installed versions fuzz lint docs docs-serve pages pictures bench clean

help: ## what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  (PYTHON=python3.12 make ... uses another interpreter; default: $(PYTHON))"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable ".[test,lint,docs,plot]"
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## xbc in .venv, with the pinned versions of constraints.txt

dev: $(VENV)/.dev ## the same with everything that tests, checks and documentation need

demo: install ## compile a small real network, replay it, check its accuracy
	@mkdir -p out
	@echo "The first compile also builds xbc's kernels (half a minute, or minutes on a loaded machine); later ones take a second."
	$(BIN)/xbc compile $(DEMO) -o out/digits_cnn.xbc
	$(BIN)/xbc verify out/digits_cnn.xbc
	$(BIN)/xbc evaluate out/digits_cnn.xbc --data $(DATA) --model $(DEMO)
	@echo "The program is in out/digits_cnn.xbc; look at it with: $(BIN)/xbc inspect out/digits_cnn.xbc"

test: dev lint check docs installed ## everything CI runs: lint, types, tests, documentation, the installed wheel

check: dev ## the tests (warnings are errors)
	$(BIN)/python -m pytest -n 2

installed: ## the wheel outside the checkout, with the newest and with the oldest dependencies
	$(PYTHON) tests/installed/check.py newest
	$(PYTHON) tests/installed/check.py oldest

versions: ## the whole test suite on the oldest and the newest Python and dependencies (half an hour)
	$(PYTHON) tests/installed/check.py newest --tests
	$(PYTHON) tests/installed/check.py oldest --tests

fuzz: dev ## the property tests with other examples each time, ROUNDS times (minutes each)
	@for round in $$(seq $(ROUNDS)); do \
	  $(BIN)/python -m pytest -n 2 -m hypothesis --hypothesis-profile fuzz || exit 1; done

attack: dev ## damaged models and programs, power cuts, signals: CASES of each, SEED (minutes; CASES=10000 takes hours)
	@$(BIN)/python attack/bombs.py
	@$(BIN)/python attack/onnx_models.py --cases $(CASES) --seed $(SEED)
	@$(BIN)/python attack/programs.py --cases $(CASES) --seed $(SEED)
	@$(BIN)/python attack/recovery.py --cuts $$(( $(CASES) / 10 )) --cases $(CASES) --seed $(SEED)
	@$(BIN)/python attack/inputs.py --cases $(CASES) --seed $(SEED)
	@$(BIN)/python attack/node_models.py
	@$(BIN)/python attack/signals.py --signals $$(( $(CASES) / 10 )) --limits $$(( $(CASES) / 10 )) --seed $(SEED)

lint: dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: dev pages ## build the documentation into site/
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

pages: dev ## the pages of docs/ that come from the code
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/run_notebooks.py

pictures: install ## measure and draw docs/pictures/
	$(BIN)/python docs/pictures.py

docs-serve: dev pages ## the documentation at a local address, rebuilt on change
	$(BIN)/mkdocs serve

bench: install ## the benchmarks (minutes; each prints ratios)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove what make made (.venv too)
	rm -rf $(VENV) out site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
