# make app    set up and run the Studio on http://127.0.0.1:7860
# make test   set up and run every check and test
# make quick  the tests that take the least time: no browser, no processes, no training runs
# make sanitize  the native code under AddressSanitizer and ThreadSanitizer: its tests, and a stress of many threads
# make lint   set up and run ruff alone
# make sbom   list what is installed, with versions and licences, in sbom.json
# make audit  look up known faults of what is installed; needs a network
#
# PYTHON=python3.12   the Python to build .venv with (3.11 or newer)
# PORT=7861           the Studio's port
# CHROMIUM=/path      the browser that the browser tests drive
# WORKERS=1           how many processes share the tests (as many as cores, at most 4; 0: pytest's own)
# PYTEST_ARGS="..."   handed to pytest, as in PYTEST_ARGS='-m "not slow"'

PYTHON ?= python3
PORT ?= 7860
CHROMIUM ?=
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -lt 4 ] && echo $$n || echo 4)
PYTEST_ARGS ?=

VENV := .venv
AUDIT := .venv-audit
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install
# Peer library of the attack tests; requirements-dev.txt says why it comes without dependencies.
TORCHATTACKS := torchattacks==3.5.1

# What `make quick` runs: what is worked out in memory, from configs to reports.
QUICK := tests/test_packages.py tests/test_how_to.py tests/config tests/data/test_augmentation.py \
  tests/attacks/test_start_noise.py tests/evaluation/test_detection.py tests/evaluation/test_transferability.py \
  tests/training/test_losses.py tests/training/test_runs.py tests/paper tests/reporting/test_detection_report.py \
  -m "not slow and not browser"

export CHROMIUM
export GRADIO_ANALYTICS_ENABLED := False

.PHONY: app test quick sanitize lint sbom audit browser clean
.DEFAULT_GOAL := app

app: $(VENV)/.app-installed
	$(BIN)/python app.py --port $(PORT)

test: $(VENV)/.dev-installed browser
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q -n $(WORKERS) $(PYTEST_ARGS)

quick: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q -n $(WORKERS) $(QUICK) $(PYTEST_ARGS)

# The sanitizer's runtime is loaded before Python. PyTorch is not instrumented, nor are its OpenMP threads: the library
# takes threads of its own here. ThreadSanitizer needs memory in its usual places (setarch).
SANITIZED = CCE_STUDIO_NATIVE_THREADS=own PYTHONPATH=. LD_PRELOAD="$$($${CXX:-g++} -print-file-name=$(1))"
ASAN = CCE_STUDIO_NATIVE_FLAGS="-fsanitize=address --param asan-instrumentation-with-call-threshold=0 -g1 -O1" \
  ASAN_OPTIONS=detect_leaks=0 $(call SANITIZED,libasan.so)
TSAN = CCE_STUDIO_NATIVE_FLAGS="-fsanitize=thread -g1 -O1" \
  TSAN_OPTIONS=ignore_noninstrumented_modules=1:exitcode=66 $(call SANITIZED,libtsan.so)

sanitize: $(VENV)/.dev-installed
	$(ASAN) $(BIN)/python tests/sanitize/stress.py
	$(ASAN) $(BIN)/python -m pytest -q -n 0 tests/kernels --ignore tests/kernels/test_library.py
	$(TSAN) setarch -R $(BIN)/python tests/sanitize/stress.py

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .

# What the Studio runs with; pip's own format (pip inspect).
sbom: $(VENV)/.app-installed
	$(BIN)/python -m pip --disable-pip-version-check inspect --local > sbom.json
	@$(BIN)/python -c 'import json; print(len(json.load(open("sbom.json"))["installed"]), "packages in sbom.json")'

# pip-audit has an environment of its own: what it needs itself is no part of the Studio.
audit: $(VENV)/.app-installed $(AUDIT)/.installed
	$(AUDIT)/bin/pip-audit --progress-spinner off --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

$(AUDIT)/.installed: Makefile | $(BIN)/python
	$(BIN)/python -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip --disable-pip-version-check install -q pip-audit==2.10.1
	@touch $@

clean:
	rm -rf $(AUDIT) sbom.json $(VENV) .pytest_cache .ruff_cache

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "CCE Studio needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" --version 2>&1)." \
	       "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) could not make a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

# The stamps are written last, so an install that broke off is taken up again.
$(VENV)/.app-installed: requirements.txt | $(BIN)/python
	@echo "Installing what the Studio needs into $(VENV) (once; a few minutes)"
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.dev-installed: requirements-dev.txt Makefile $(VENV)/.app-installed
	$(PIP) -r requirements-dev.txt
	$(PIP) --no-deps $(TORCHATTACKS)
	@touch $@

# A Chromium for the browser tests: the one named, one that is here, the system's package where it
# may be installed, Playwright's own otherwise.
browser: $(VENV)/.dev-installed
	@if [ -n "$$CHROMIUM" ]; then \
	  [ -x "$$CHROMIUM" ] || { echo "CHROMIUM=$$CHROMIUM is not a program." >&2; exit 1; }; \
	  exit 0; \
	fi; \
	for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ -f $(VENV)/.playwright-chromium ]; then exit 0; fi; \
	root=none; \
	if command -v apt-get >/dev/null; then \
	  if [ "$$(id -u)" = 0 ]; then root=""; \
	  elif sudo -n true 2>/dev/null; then root="sudo -n"; fi; \
	fi; \
	if [ "$$root" != none ]; then \
	  echo "Installing Chromium for the browser tests"; \
	  $$root apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive $$root apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core \
	  && command -v chromium >/dev/null && exit 0; \
	fi; \
	$(BIN)/python -m playwright install chromium && touch $(VENV)/.playwright-chromium && exit 0; \
	echo "The browser tests need Chromium, and it could not be installed from here. Do one of these:" >&2; \
	echo "  - install it yourself (Debian: apt install chromium)" >&2; \
	echo "  - name one: make test CHROMIUM=/path/to/chromium" >&2; \
	echo "  - leave these tests out: .venv/bin/python -m pytest -q -m 'not browser'" >&2; \
	exit 1
