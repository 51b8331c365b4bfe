# Two commands do everything on a fresh machine:  make studio   and   make test

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STARTER := HuggingFaceTB/SmolLM2-135M-Instruct
# Browsers and processes of several ranks share a machine with who knows what: a failure is tried once more, and named at the end
AGAIN   := --reruns 1 -rR

.PHONY: studio test check fast-tests browser-tests slow-tests lint types browser samples clean

studio: $(VENV)/.installed  ## set up, fetch the starter model once, open the studio
	@$(PY) -m engine fetch $(STARTER) || echo "The starter model is not there yet; the studio can fetch it later."
	@$(PY) app.py

test: check browser-tests slow-tests  ## everything

check: lint types fast-tests  ## the fast part

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed-dev
	$(VENV)/bin/mypy

fast-tests: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow and not browser and not gpu" -n auto --maxprocesses=8 --dist=loadfile

browser-tests: $(VENV)/.installed-dev browser
	$(PY) -m pytest -m browser -n auto --maxprocesses=4 --dist=loadfile $(AGAIN)

slow-tests: $(VENV)/.installed-dev browser
	@sh scripts/install_slurm.sh
	@$(PY) -m pip install --quiet -r requirements-export.txt
	@test -d $(VENV)/dlrover || $(PY) -m pip install --quiet --target $(VENV)/dlrover -r requirements-dlrover.txt
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow tests/engine/test_families.py -n auto --maxprocesses=8
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow --ignore=tests/engine/test_families.py -n auto --maxprocesses=2 --dist=loadfile $(AGAIN)

browser:
	@sh scripts/install_browser.sh

samples: $(VENV)/.installed  ## make assets/samples anew from the standard library
	$(PY) scripts/make_samples.py

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}: run make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet torch==$$(sed -n 's/^torch==//p' requirements.txt)
	$(PY) -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt requirements-convert.txt
	$(PY) -m pip install --quiet -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
