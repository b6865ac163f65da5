# One door to everything. Each target makes what it needs in .venv, once; after that it works without a network.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The interpreter to ask: the virtual environment's own once it exists, so that the answers stay the same.
ASK := $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

# Two makes at once must not run two pips in one environment.
LOCK := $(if $(shell command -v flock),flock .venv.lock)
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Training and export need torch. constraints.txt pins the version that has a CPU build for Python 3.11; on other
# Pythons on Linux pip would fetch gigabytes of CUDA instead, so there the tests that need torch are skipped, with
# their reason. `make test TORCH=yes` installs it all the same, `TORCH=no` never does.
ifndef TORCH
TORCH := $(shell $(ASK) -c 'import sys; print("yes" if sys.version_info[:2] == (3, 11) or sys.platform != "linux" else "no")')
endif
DEMO_EXTRAS := onnx,report,pictures
TEST_EXTRAS := $(DEMO_EXTRAS),sign,dev
ifeq ($(TORCH),yes)
TEST_EXTRAS := $(TEST_EXTRAS),train
endif

# The same source gives the same wheel: its files carry the date of the last commit.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1700000000)

DEMO_READY := $(VENV)/demo-ready
TEST_READY := $(VENV)/test-ready-torch-$(TORCH)

.PHONY: help demo test unit check lint types build sbom audit bench faults soak clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo    start a daemon and five tenants on real images; ends within a minute with a table and a plot'
	@echo 'make test    all tests'
	@echo 'make unit    the quick ones: units and simulation, in seconds'
	@echo 'make check   lint, format, types, tests, wheel, known vulnerabilities'
	@echo 'make bench   round trips, decisions, footprint, the oracle, certificates, E4 for real; then all scenarios, half an'
	@echo '             hour: tables and plots in profiles/results; DATA=DIR names recorded traces, SEEDS=2 is a quick look;'
	@echo '             CIFAR=DIR WEIGHTS=FILE add ResNet-20, whose heads are trained first'
	@echo 'make faults  10,000 random fault scripts through the simulated core, every invariant held; some minutes'
	@echo 'make soak    every promise at its full count on real processes, an hour; prints counts and figures, those that'
	@echo '             miss their targets in red, and writes them to profiles/results/soak.json'
	@echo 'make audit   known vulnerabilities of the packages used; part of make check'
	@echo 'make sbom    dist/sbom.cdx.json: what delen is made of here'
	@echo 'make clean   remove the virtual environment and everything built'

demo: $(DEMO_READY)
	$(BIN)/delen demo --plot demo.png

# What needs no daemon shares the two cores, a thread to each; what does has them to itself.
test: $(TEST_READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not e2e'
	$(BIN)/python -m pytest -m e2e

# Bytecode is kept whatever the shell says: pytest compiles each of its asserts anew otherwise, a third of the time.
unit: export PYTHONDONTWRITEBYTECODE :=
unit: $(TEST_READY)
	$(BIN)/python -m pytest -n 2 -m 'not e2e and not slow and not house'

check: lint types test build audit

lint: $(TEST_READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# Without torch there is nothing to check its users against.
types: $(TEST_READY)
	$(if $(filter yes,$(TORCH)),$(BIN)/mypy,@echo 'types are not checked: torch is not installed')

build: $(TEST_READY)
	umask 022; SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(BIN)/python -m build --no-isolation --outdir dist .

# What an installation is made of, as CycloneDX.
sbom: $(TEST_READY)
	@mkdir -p dist
	$(BIN)/delen sbom --json > dist/sbom.cdx.json
	@echo 'dist/sbom.cdx.json'

# Known vulnerabilities of what is installed. Where the database cannot be reached, nothing is known, and said so.
audit: $(TEST_READY)
	@$(BIN)/python -m delen.tests.audit

bench: $(if $(CIFAR),$(TEST_READY),$(DEMO_READY))
	$(BIN)/delen bench rtt
	$(BIN)/delen bench decision
	$(BIN)/delen bench footprint
	$(BIN)/delen bench correction
	$(BIN)/delen bench oracle
	$(BIN)/delen bench certificates
	$(BIN)/delen bench networks $(if $(CIFAR),--data $(CIFAR) --weights $(WEIGHTS))
	$(BIN)/delen bench e4
	$(BIN)/delen bench scenarios $(if $(SEEDS),--seeds $(SEEDS)) $(if $(DATA),--data $(DATA))

faults: $(TEST_READY)
	$(BIN)/python -m delen.tests.random_faults $(if $(RUNS),--runs $(RUNS))

# CI's counts of the same are part of `make test`.
soak: $(TEST_READY)
	@mkdir -p profiles/results
	DELEN_SOAK=1 DELEN_FIGURES=profiles/results/soak.json $(BIN)/python -m pytest --timeout 0 tests/faults tests/fuzz
	STATE_KILLS=500 $(BIN)/python -m pytest --timeout 0 tests/test_daemon_state.py tests/test_state_disks.py

clean:
	rm -rf $(VENV) .venv.lock build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamps depend on what they installed from, so an edit of pyproject.toml installs again and nothing else does.

$(DEMO_READY): pyproject.toml constraints.txt Makefile | $(VENV)/made
	@echo 'setting up $(VENV) for the demo ($(DEMO_EXTRAS)); once'
	@$(LOCK) $(PIP) install --quiet --no-build-isolation -c constraints.txt -e '.[$(DEMO_EXTRAS)]'
	@touch $@

$(TEST_READY): pyproject.toml constraints.txt Makefile | $(VENV)/made
	@echo 'setting up $(VENV) for the tests ($(TEST_EXTRAS)); once, some minutes with torch'
	@$(if $(filter yes,$(TORCH)),,echo 'without torch on this Python: see TORCH in the Makefile')
	@$(LOCK) $(PIP) install --quiet --no-build-isolation -c constraints.txt -e '.[$(TEST_EXTRAS)]'
	@touch $@

# setuptools goes in first, so that later installs build without fetching it again.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'delen needs Python 3.10 or later; name one, e.g. make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo 'this Python cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	@$(LOCK) sh -c 'test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)'
	@$(LOCK) $(PIP) install --quiet 'setuptools>=77'
	@touch $@
