# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make demo    install, teach the shipped model an action it has never seen, say where the report is
#   make test    install, then every check
# `make help` lists the rest.

VENV ?= .venv
# The first python that runs, is 3.11 or newer and can make a virtual environment; name another with PYTHON=...
PYTHON ?=
# Where torch comes from: "auto" takes the small CPU build where no NVIDIA GPU is visible, "pypi" the usual index, or an address
TORCH_INDEX ?= auto
CPU_INDEX := https://download.pytorch.org/whl/cpu
WORKERS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DRIFT := tests/test_packaging.py::test_package_and_notebooks_do_not_drift

.PHONY: docs help demo test fuzz lab install export clean-notebooks times readme clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-16s %s\n", $$1, $$2}'
	@echo "Variables: PYTHON=python3.12  TORCH_INDEX=auto|pypi|ADDRESS  ARGS='--seed 1' (for demo)  CASES=10000 SEED=0 (for fuzz)"

demo: $(STAMP)  ## install, run the main job (a few minutes), print where the report is
	$(BIN)/mocapfree demo $(ARGS)

# One thread each: two notebooks, or two files of tests, at a time on two cores are faster than torch competing with itself.
# A file of tests stays in one process (loadfile), and so do the models, servers and browsers that its tests share. The files
# that take longest come first (tests/conftest.py), not those of most tests, or one core would wait for the last long one.
test: $(STAMP)  ## install, package against notebooks, ruff, all notebooks, pytest
	@echo "== 1/4 notebooks as they were written (what running changed is put back), package agrees with them"
	$(BIN)/python .ci/notebooks.py
	$(BIN)/python -m pytest $(DRIFT)
	@echo "== 2/4 ruff"
	$(BIN)/ruff check .
	@echo "== 3/4 notebooks"
	OMP_NUM_THREADS=1 MPLBACKEND=agg $(BIN)/nbdev_test --n-workers $(WORKERS) --do-print --timing
	@echo "== 4/4 pytest"
	OMP_NUM_THREADS=1 MPLBACKEND=agg $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --deselect $(DRIFT) --durations=8

CASES ?= 10000
SEED ?= 0

fuzz: $(STAMP)  ## give damaged and hostile files to every reader (CASES=10000 SEED=0; some ten minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --cases $(CASES) --seed $(SEED) --workers $(WORKERS)

lab: $(STAMP)  ## open JupyterLab on the index notebook; runs/ and its reports are in the file browser
	@mkdir -p runs
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir="$(CURDIR)" nbs/index.ipynb

install: $(STAMP)  ## make .venv and install the package with its development tools

export: $(STAMP)  ## write the package from the notebooks
	$(BIN)/nbdev_export

clean-notebooks: $(STAMP)  ## strip what does not belong into version control; pictures stay
	$(BIN)/nbdev_clean

times: $(STAMP)  ## run every lesson in a real kernel and keep how long each takes (some five minutes)
	$(BIN)/python .ci/times.py

readme: $(STAMP)  ## write README.md, badges, links between lessons and the sidebar
	$(BIN)/python .ci/house.py

docs: $(STAMP)  ## build the documentation into _docs and check its links
	$(BIN)/python .ci/docs.py

clean:  ## remove the environment and everything built (runs/ stays)
	rm -rf $(VENV) build dist *.egg-info _proc _docs .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made again when a requirement changes; otherwise a second run installs nothing.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	found=; \
	for p in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11); do \
	  if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    if "$$p" -c 'import ensurepip, venv' >/dev/null 2>&1; then found=$$p; break; fi; \
	    bare=$$p; \
	  fi; \
	done; \
	if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	  echo "error: $$bare cannot make virtual environments; install its venv package (Debian and Ubuntu: apt-get install $$("$$bare" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')) or name another: make PYTHON=/path/to/python" >&2; \
	  exit 1; \
	fi; \
	if [ -z "$$found" ]; then \
	  echo "error: Python 3.11 or newer is needed, and $(if $(PYTHON),$(PYTHON) is not,none was found ($$(python3 --version 2>/dev/null || echo no python3))); install one or name it: make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$found" --version); the first install takes some minutes"; \
	"$$found" -m venv $(VENV); \
	index="$(TORCH_INDEX)"; \
	if [ "$$index" = auto ]; then \
	  index=pypi; \
	  if ! command -v nvidia-smi >/dev/null 2>&1 && [ "$$(uname -s)" = Linux ]; then index=$(CPU_INDEX); fi; \
	fi; \
	if [ "$$index" != pypi ]; then \
	  echo "torch from $$index (another choice: make install TORCH_INDEX=pypi, or an address)"; \
	  $(BIN)/python -m pip install --disable-pip-version-check --retries 0 --timeout 20 -q --index-url "$$index" -c constraints.txt torch \
	    || echo "cannot reach $$index: torch comes from the usual index, with whatever build that has"; \
	else \
	  echo "torch from the usual index (the CPU build alone: make install TORCH_INDEX=$(CPU_INDEX))"; \
	fi; \
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	touch $@
