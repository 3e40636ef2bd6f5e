# make run    install, then the organism's sweep: results, report, how to open the UI
# make test   install with test dependencies, then the tests
# make lint   formatting, lint, types, import rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint lock clean

run: $(VENV)/.installed
	$(BIN)/backtracking sweep organism --job phase2

test: $(VENV)/.installed-dev
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

# Pin what a fresh environment resolves to. Local and CUDA builds keep the plain version, which serves both.
lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet -e '.[dev]'
	{ echo '# The versions that were tested together; made by `make lock`.'; \
	  $(VENV)-lock/bin/python -m pip list --format=freeze --exclude-editable \
	  | grep -viE '^(pip|setuptools|wheel|nvidia-.*|cuda-.*|triton)==' | sed 's/+[^ ]*//'; } > constraints.txt
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-lock .pytest_cache .ruff_cache .import_linter_cache
