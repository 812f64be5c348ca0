# Everything a developer runs. `install` is a prerequisite of the rest, so each works on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test check format parity nano bench clean
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group dev
	# The vocabulary of CLIP and PE lies in this wheel; its dependencies (torchvision, timm) are not wanted.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps open_clip_torch
	$(BIN)/python -m pip install --quiet --no-deps --editable compat/inference_models
	touch $(STAMP)

demo: install
	$(BIN)/pe demo

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist
