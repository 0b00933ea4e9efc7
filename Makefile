# Two commands: `make demo` runs the main job on a real language model, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODELS := smollm2-135m minilm

.PHONY: demo test check bench-check format audit setup clean

demo: $(VENV)/.ready
	$(BIN)/bitcodec demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Ratios of speed (not times) against those in benchmarks/results/speed.json.
bench-check: $(VENV)/.ready
	$(BIN)/python -m benchmarks.speed --check --repeats 7

format: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Asks the public database of advisories about the pinned versions: needs the network, and fails
# where a package could not be looked up.
audit: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

setup: $(VENV)/.ready

# SAEBench asks for numpy below 2 and Delphi for vllm, which bitcodec's adapters of the two never
# use: they are installed without what they ask for, and their tests try the parts that do without.
# The environment, and the models in the user's cache: everything after this works offline.
$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (about a minute the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps sae-bench eai-delphi
	@echo "fetching the models $(MODELS) (once)"
	@$(BIN)/python -c "import bitcodec_transformers as b; [b.prepare_model(name) for name in '$(MODELS)'.split()]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo
