# Two commands: `make demo` runs the main job on a real language model, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODELS := smollm2-135m minilm

.PHONY: demo test check format audit setup clean

demo: $(VENV)/.ready
	$(BIN)/bitcodec demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Asks the public database of advisories about what is installed: needs the network.
audit: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --local --skip-editable

setup: $(VENV)/.ready

# The environment, and the models in the user's cache: everything after this works offline.
$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (about a minute the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@echo "fetching the models $(MODELS) (once)"
	@$(BIN)/python -c "import bitcodec_transformers as b; [b.prepare_model(name) for name in '$(MODELS)'.split()]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo
