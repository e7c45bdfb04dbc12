# Two commands need nothing but git and Python 3.11: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := dev,umap,segment,docs

.PHONY: setup demo test lint types slow cluster-tests bench docs pages licences lock clean

setup: $(STAMP)

# The stamp makes a second run free; it is renewed when the pins or the project's metadata change.
$(STAMP): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch into $(VENV): once, one to a few minutes, by the network"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	@echo "Installing this project and the other packages: once, about a minute"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python experiments/run_ablation.py --space quickstart
	@echo "Report: results/quickstart/report/index.html"

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not cluster and not gpu" tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not cluster and not gpu" tests

cluster-tests: $(STAMP)
	$(BIN)/python -m pytest -m "cluster" $(PYTEST_MORE) tests

bench: $(STAMP)
	$(BIN)/python -m benchmarks

docs: $(STAMP) pages
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

# The pages and the schema that are made from the code; tests fail where they are out of step.
pages licences: $(STAMP)
	$(BIN)/python -m docs.tools.generate

# Resolve everything anew, write the pins, and prove that the tests pass with them.
lock:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable ".[$(EXTRAS)]"
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt
	touch $(STAMP)
	$(BIN)/python -m docs.tools.generate
	$(MAKE) test

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache
