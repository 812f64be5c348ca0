# Everything a developer runs. `install` is a prerequisite of the rest, so each works on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What pip does in a tenth of its time. Compiling to bytecode is left to imports: most is never imported.
UV := $(BIN)/uv pip install --quiet --system-certs
# The tests start hundreds of processes. Images for containers like to set this, and then each process
# compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test fuzz test-without-torch coverage clients original workflows adapters check docs dist format parity peers nano clean
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	# torch by pip, whose settings may name wheels for CPUs.
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch uv
	$(UV) --python $(BIN)/python --constraint constraints.txt --editable ".[all]" --group dev --group docs
	# The vocabulary of CLIP and PE lies in this wheel; its dependencies (torchvision, timm) are not wanted.
	$(UV) --python $(BIN)/python --constraint constraints.txt --no-deps open_clip_torch
	$(UV) --python $(BIN)/python --no-deps --editable compat/inference_models
	touch $(STAMP)

demo: install
	$(BIN)/pe demo

# Three processes: many tests wait for servers and child processes. PROCESSES=0 runs it in one.
PROCESSES ?= 3
test: install
	$(MAKE) --jobs $(OTHERS)
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal

# Lines and branches of the package that the suite runs, in build/coverage. Fails below the floor that
# pyproject.toml sets. Tracing takes a third more processor time, so it is a target of its own.
# Python 3.14 has a faster way, which coverage chooses by itself.
coverage: install
	$(MAKE) --jobs $(OTHERS)
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/coverage run -m pytest --numprocesses $(PROCESSES) --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet --directory build/coverage/html --fail-under 0
	$(BIN)/coverage report

# Random inputs for every reader of untrusted data; `make test` tries 25 of each kind.
EXAMPLES ?= 10000
fuzz: install
	PE_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/fuzz -o timeout=0

# The half of the tests that wants no torch, in an environment that has onnxruntime alone, as small
# machines have. The graphs are made outside of it.
WITHOUT_TORCH := .without-torch
test-without-torch: install
	$(PYTHON) -m venv $(WITHOUT_TORCH)
	$(UV) --python $(WITHOUT_TORCH)/bin/python --constraint constraints.txt \
	  --editable ".[onnx,server,heic,jxl,raw,plot,map]" pytest pytest-timeout hypothesis
	$(UV) --python $(WITHOUT_TORCH)/bin/python --constraint constraints.txt --no-deps open_clip_torch
	$(BIN)/pe export pe-nano build/nano-onnx
	PE_TEST_EXPORT=build/nano-onnx $(WITHOUT_TORCH)/bin/python -m pytest tests/test_exported_model.py \
	  tests/analysis tests/index tests/indexing tests/search tests/sources tests/preprocess tests/registry

# Other people's packages that tests need, each in a folder of its own. Downloads take most of the time,
# so they are installed side by side.
OTHERS := clients original workflows adapters

# Other people's clients, which want an older numpy and OpenCV than this project: tests run them against
# the server. Two SDKs of one set of requirements, of clip-retrieval the client alone, OpenAI's for
# browsers, and what reads OpenAPI documents. Needs npm.
CLIENTS := .clients
clients: $(CLIENTS)/.installed

$(CLIENTS)/.installed: tests/server/clients/requirements.txt tests/server/clients/npm.txt | $(STAMP)
	$(PYTHON) -m venv --clear --without-pip $(CLIENTS)
	$(UV) --python $(CLIENTS)/bin/python --requirement tests/server/clients/requirements.txt
	$(UV) --python $(CLIENTS)/bin/python --no-deps --target $(CLIENTS)/sdk-1.5.0 inference-sdk==1.5.0
	$(UV) --python $(CLIENTS)/bin/python --no-deps --target $(CLIENTS)/clip-retrieval clip-retrieval==2.45.0
	# The first runs in the browser, the others in node: what reads OpenAPI documents, and the AI SDK.
	npm install --prefix $(CLIENTS) --ignore-scripts --no-audit --no-fund --no-package-lock --loglevel error \
	  $$(grep -v '^#' tests/server/clients/npm.txt)
	touch $@

# Roboflow's own inference_models, in a folder that tests put on the search path of child processes.
ORIGINAL := .original
original: $(ORIGINAL)/.installed

$(ORIGINAL)/.installed: tests/compat/original.txt | $(STAMP)
	rm -rf $(ORIGINAL)
	$(UV) --python $(BIN)/python --no-deps --target $(ORIGINAL) --requirement $<
	touch $@

# Roboflow's execution engine of Workflows, likewise, in front of that folder, and one of old.
WORKFLOWS := .workflows
workflows: $(WORKFLOWS)/.installed

$(WORKFLOWS)/.installed: tests/integrations/workflows/packages.txt tests/integrations/workflows/inference.txt $(ORIGINAL)/.installed | $(STAMP)
	rm -rf $(WORKFLOWS)
	$(UV) --python $(BIN)/python --no-deps --target $(WORKFLOWS) --requirement $<
	$(UV) --python $(BIN)/python --no-deps --target $(WORKFLOWS)/inside-inference --requirement $(word 2,$^)
	touch $@

# The libraries that integrations adapt to and that recipes use, likewise.
ADAPTERS := .adapters
adapters: $(ADAPTERS)/.installed

$(ADAPTERS)/.installed: tests/integrations/adapters.txt | $(STAMP)
	rm -rf $(ADAPTERS)
	$(UV) --python $(BIN)/python --no-deps --target $(ADAPTERS) --requirement $<
	touch $@

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation's site, in build/site; a link that leads nowhere ends it. To read it with its search:
# python3 -m http.server --directory build/site
docs: install
	$(BIN)/python -m scripts.reference
	$(BIN)/zensical build --clean --strict

# What is uploaded for a release, with sizes; the wheel is made of the source archive. See RELEASING.md.
dist: install
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m build --no-isolation --outdir dist compat/inference_models
	$(BIN)/python -m scripts.sizes dist

# Golden outputs of the original implementations, in an environment of its own: see parity/README.md.
PARITY := .parity
parity:
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --requirement parity/requirements.txt
	$(PARITY)/bin/python -m pip install --quiet --no-deps inference-models==0.39.6
	PYTHONPATH=tests $(PARITY)/bin/python parity/record.py
	PYTHONPATH=tests $(PARITY)/bin/python parity/sizes.py
	PYTHONPATH=tests $(PARITY)/bin/python parity/timm_towers.py
	$(PARITY)/bin/python -m parity.record_tokens

# What benchmarks/encoders.py compares with, each in an environment of its own: 12 GB.
PEERS := .peers
peers:
	for list in benchmarks/peers/requirements-*.txt; do \
	  name=$${list#*requirements-}; name=$${name%.txt}; \
	  $(PYTHON) -m venv $(PEERS)/$$name && \
	  $(PEERS)/$$name/bin/python -m pip install --quiet --requirement $$list || exit 1; \
	done

# The bundled model from nothing: drawings, training, scores, card and the demo's images. Needs npm
# and apt-get. NANO_ARGS reaches training: NANO_ARGS="--device cuda --bf16 --workers 12 --batch-size 1024".
NANO := build/pe-nano
MINUTES ?= 95
nano: install
	$(UV) --python $(BIN)/python --constraint constraints.txt --group training
	$(BIN)/python -m training.pe_nano.fetch --cache $(NANO)
	$(BIN)/python -m training.pe_nano.prepare --packages $(NANO)/node_modules \
	  --openclipart $(NANO)/openclipart --out $(NANO)/data
	$(BIN)/python -m training.pe_nano.train --data $(NANO)/data --out $(NANO)/model \
	  --minutes $(MINUTES) $(NANO_ARGS)
	cp $(NANO)/model/* src/perception_encoder/data/pe-nano/
	$(BIN)/python -m training.pe_nano.evaluate --data $(NANO)/data --model pe-nano \
	  --out training/pe_nano/scores.json
	$(BIN)/python -m training.pe_nano.report --scores training/pe_nano/scores.json --card MODEL_CARD.md
	$(BIN)/python -m training.pe_nano.gallery --packages $(NANO)/node_modules \
	  --out src/perception_encoder/data/gallery

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(WITHOUT_TORCH) $(ADAPTERS) $(ORIGINAL) $(WORKFLOWS) $(PARITY) $(CLIENTS) $(PEERS) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .cache build dist
