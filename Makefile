# What a newcomer needs: `make demo` and `make test`. Both build .venv on the first call and cost seconds afterwards.
# Options: PYTHON=/path/to/python3 chooses the interpreter (otherwise the first of those below that suits), JOBS=4 the
# number of test processes.

VENV := .venv
PY := $(VENV)/bin/python
JOBS ?= 2
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types layers wheel clean FORCE

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/.demo-stamp  ## train two small networks, analyse them and write report.html
	$(VENV)/bin/featgeo demo

test: $(VENV)/.dev-stamp  ## run the tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS)

lint: $(VENV)/.dev-stamp  ## check formatting and lint rules
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

format: $(VENV)/.dev-stamp  ## rewrite the files as `lint` wants them
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

types: $(VENV)/.dev-stamp  ## check the types of src
	$(PY) -m mypy

layers: $(VENV)/.dev-stamp  ## check that imports flow one way
	$(VENV)/bin/lint-imports --no-logo

wheel: $(VENV)/.dev-stamp  ## build dist/featgeo-*.whl
	$(PY) -m build --wheel --outdir dist

clean:  ## remove everything that can be made again, .venv included
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# -- the environment ---------------------------------------------------------------------------------------------------
# A stamp says that an installation came to its end. While one is under way .venv/.incomplete lies beside the stamps;
# an environment that still has it, or whose interpreter does not run, is made again from nothing.

SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
SOUND := [ ! -e $(VENV)/.incomplete ] && $(PY) -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null

define find_python
for python in $(PYTHON); do \
    "$$python" -c '$(SUITABLE)' 2>/dev/null && break; \
    python=; \
done; \
if [ -z "$$python" ]; then \
    echo 'error: no Python 3.11 or newer with the venv module; tried: $(PYTHON)' >&2; \
    echo 'Install one (Debian, Ubuntu: python3 and python3-venv) or name one: make PYTHON=/path/to/python3' >&2; \
    exit 1; \
fi
endef

define install
@$(SOUND) || { $(find_python); \
    echo "Making $(VENV) with $$("$$python" --version)"; \
    rm -rf $(VENV) && mkdir $(VENV) && touch $(VENV)/.incomplete && "$$python" -m venv $(VENV); }
@touch $(VENV)/.incomplete
$(PY) -m pip install -c constraints.txt -e '$(1)'
@touch $(2) && rm $(VENV)/.incomplete
endef

$(VENV)/.demo-stamp: pyproject.toml constraints.txt $(shell $(SOUND) || echo FORCE)
	$(call install,.,$@)

$(VENV)/.dev-stamp: pyproject.toml constraints.txt $(shell $(SOUND) || echo FORCE)
	$(call install,.[dev],$(VENV)/.demo-stamp $@)
