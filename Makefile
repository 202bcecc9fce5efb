# `make demo` and `make test` each set everything up on a machine with Python >= 3.11 and make, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-by-make
THEORIES := diffusion_subspace diffusion_manifold rpmd pmd_mean large_lr label_shift

.PHONY: help demo test test-all lint benchmark clean

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@echo "==> Setting up $(VENV) (a few minutes the first time, once)"
	@$(PYTHON) -c 'import sys; sys.exit("porism needs Python 3.11 or newer; try: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]' --group lint
	@touch $(STAMP)

demo: $(STAMP) ## Check two papers, draw the figures of all, write the HTML report
	@echo "==> Checking every claim of label_shift and sinkd (what is recorded in .porism is not run again)"
	@$(BIN)/porism check label_shift sinkd; status=$$?; \
	  echo "==> Leaving the theorems' ranges: where do their claims really stop?"; \
	  for key in $(THEORIES); do $(BIN)/porism explore $$key --beyond -o report/figures; done; \
	  echo "==> Drawing the figures and writing the report"; \
	  $(BIN)/porism report -o report && exit $$status

test: $(STAMP) ## The tests, under ten minutes on two cores
	@echo "==> Running the tests (what is marked slow is left out; make test-all runs it)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist loadfile -m 'not slow'

test-all: $(STAMP) ## All tests, the slow ones too
	@echo "==> Running all tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(STAMP) ## Style, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

benchmark: $(STAMP) ## Ratios to a baseline in the same run
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	@$(BIN)/python tests/benchmarks/startup.py
	@$(BIN)/python tests/benchmarks/scale.py
	@$(BIN)/python tests/benchmarks/mathematics.py
	@$(BIN)/python tests/benchmarks/robust_mdp.py
	@$(BIN)/python tests/benchmarks/mathematics.py large_steps
	@$(BIN)/python tests/benchmarks/manifold_scores.py
	@$(BIN)/python tests/benchmarks/adapters.py
	@$(BIN)/python tests/benchmarks/decoding.py
	@$(BIN)/python tests/benchmarks/distillation.py
	@$(BIN)/python tests/benchmarks/experts.py
	@$(BIN)/python tests/benchmarks/kvcache.py
	@$(BIN)/python tests/benchmarks/low_rank_sparse.py
	@$(BIN)/python tests/benchmarks/optimizers.py
	@$(BIN)/python tests/benchmarks/pruning.py
	@$(BIN)/python tests/benchmarks/quantisation.py
	@$(BIN)/python tests/benchmarks/tuning.py
	@$(BIN)/python tests/benchmarks/vector_quantisation.py

clean: ## Remove what make and porism wrote here
	rm -rf $(VENV) .porism report figures .mypy_cache .ruff_cache .hypothesis
