# What a newcomer needs: `make demo` and `make test`. Both build .venv on the first call and cost seconds afterwards.
# The examples on real data have an environment of their own, .venv-examples, since they need large packages.
# Options: PYTHON=/path/to/python3 chooses the interpreter (otherwise the first of those below that suits), JOBS=4 the
# number of test processes.

VENV := .venv
EXAMPLES := .venv-examples
PY := $(VENV)/bin/python
JOBS ?= 2
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo picture test lint format types layers wheel examples gallery clean FORCE

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/.demo-stamp  ## train two small networks, analyse them and write report.html
	$(VENV)/bin/featgeo demo

picture: $(VENV)/.demo-stamp  ## remake docs/figures/report.png, the README's picture (needs chromium)
	$(PY) docs/make_picture.py

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

examples: $(EXAMPLES)/.stamp  ## install what the examples need into .venv-examples
	@echo 'Run them with $(EXAMPLES)/bin/python; examples/sources.py --get downloads data'

gallery: $(EXAMPLES)/.stamp  ## analyse real networks on real data and write docs/gallery.md (nightly: 5 to 15 minutes)
	$(EXAMPLES)/bin/python examples/sources.py --get complaints cifar10 fashion_mnist adult
	$(EXAMPLES)/bin/python examples/gallery.py

clean:  ## remove everything that can be made again, .venv included
	rm -rf $(VENV) $(EXAMPLES) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# -- the environment ---------------------------------------------------------------------------------------------------
# A stamp says that an installation came to its end. While one is under way a file .incomplete lies beside the stamps;
# an environment that still has it, or whose interpreter does not run, is made again from nothing.

SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
sound = [ ! -e $(1)/.incomplete ] && $(1)/bin/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null

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

# $(call install,environment,what pip installs,stamps)
define install
@$(call sound,$(1)) || { $(find_python); \
    echo "Making $(1) with $$("$$python" --version)"; \
    rm -rf $(1) && mkdir $(1) && touch $(1)/.incomplete && "$$python" -m venv $(1); }
@touch $(1)/.incomplete
$(1)/bin/python -m pip install -c constraints.txt $(2)
@touch $(3) && rm $(1)/.incomplete
endef

$(VENV)/.demo-stamp: pyproject.toml constraints.txt $(shell $(call sound,$(VENV)) || echo FORCE)
	$(call install,$(VENV),-e '.',$@)

$(VENV)/.dev-stamp: pyproject.toml constraints.txt $(shell $(call sound,$(VENV)) || echo FORCE)
	$(call install,$(VENV),-e '.[dev]',$(VENV)/.demo-stamp $@)

$(EXAMPLES)/.stamp: pyproject.toml constraints.txt examples/requirements.txt \
        $(shell $(call sound,$(EXAMPLES)) || echo FORCE)
	$(call install,$(EXAMPLES),-e '.' -r examples/requirements.txt,$@)
