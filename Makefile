# Every target sets up what it needs; on a clean clone `make test` and `make demo` are enough.

PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
READY := .venv/.ready
PEERS := .venv-peers

# uv brings its own certificates; a machine may need the system's.
export UV_SYSTEM_CERTS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup check test sim fuzz fault soak bench bench-kernel bench-one bench-many bench-small bench-scale bench-report bench-peers demo notebook up docs lock clean

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

setup: $(READY) ## the environment in .venv, from the locked versions

$(READY): requirements-all.txt pyproject.toml hatch_build.py notebook/pyproject.toml $(wildcard hashmill/hashing/native/*.[ch])
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON). Install Python 3.11 or newer (Debian: apt-get install python3 python3-venv), or name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11. Install a newer one and name it: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make environments. Install its venv module (Debian: apt-get install python3-venv)"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet uv==$(UV_VERSION) || true
	@if test -x $(BIN)/uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-all.txt; then \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e . -e ./notebook; \
	else \
	  echo "uv did not do it; going on with pip, which is slower"; \
	  $(BIN)/python -m pip install --quiet --require-hashes -r requirements-all.txt && $(BIN)/python -m pip install --quiet --no-deps -e . -e ./notebook; \
	fi
	@# The installer keeps to itself why the kernel could not be built: ask the compiler once more.
	@test "$$HASHMILL_BUILD_KERNEL" = 0 || test -e hashmill/hashing/_kernel.abi3.so || $(BIN)/python -m hashmill.hashing.native.compile $$CC || true
	@$(BIN)/python -c 'from hashmill.hashing.fused import why_not; why = why_not(); print(f"hashlib serves alone; no fast kernel: {why}" if why else "the native kernel was built and passed its self-test")'
	@touch $@

check: $(READY) ## format, lint, types, floors, locks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@! grep -nE 'https?://' requirements.txt requirements-all.txt benchmarks/peers.txt notebook/lab.txt || { echo "a lock file must not hold an address"; exit 1; }

test: $(READY) ## the whole suite but the faults, on servers it starts itself (ARGS="-k name" narrows it)
	$(BIN)/pytest $(ARGS)

sim: $(READY) ## simulated worlds, one per seed (SEEDS=100000, FIRST=n, HUGE=50: with 5 TB; SEED=n, HUGE_SEED=n: the story of one)
	$(BIN)/python -m tests.sim.run $(if $(SEED),--seed $(SEED)$(if $(MUTATION), --mutation $(MUTATION)),$(if $(HUGE_SEED),--huge-seed $(HUGE_SEED),--seeds $(or $(SEEDS),2000) --huge $(or $(HUGE),6) --first $(or $(FIRST),1)))

fuzz: $(READY) ## against hashlib: CASES=1000000 of the native kernel, 200000 of saved states, 100000 under sanitizers (SEED=n)
	$(BIN)/python -m tests.fuzz.run --cases $(or $(CASES),1000000) --seed $(or $(SEED),1)
	$(BIN)/python -m tests.fuzz.run --saved --cases $(or $(SAVED_CASES),200000) --seed $(or $(SEED),1)
	$(BIN)/python -m tests.fuzz.run --sanitized --cases $(or $(SANITIZED_CASES),100000) --seed $(or $(SEED),1)

fault: $(READY) ## kills, cuts and refusals, one row after the other, their table at the end (ARGS="-k redis" narrows it)
	$(BIN)/pytest -m fault -s $(ARGS) tests/fault

soak: $(READY) ## faults of every kind at random for HOURS=n, then the checker (SEED=n chooses the same ones again)
	$(BIN)/python -m tests.fault.soak --hours $(or $(HOURS),1) $(if $(SEED),--seed $(SEED))

bench: bench-kernel bench-one bench-many bench-small bench-scale ## all of these in minutes; FULL=1 at full size, into benchmarks/results/

bench-peers: $(PEERS)/.ready ## boto3, awscli, rclone and what draws the plots, in an environment of their own

$(PEERS)/.ready: benchmarks/peers.txt $(READY)
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --require-hashes -r benchmarks/peers.txt || $(PEERS)/bin/python -m pip install --quiet --require-hashes -r benchmarks/peers.txt
	@touch $@

bench-kernel: $(READY) ## the native kernel beside hashlib, into benchmarks/results/kernel.json
	$(BIN)/python -m benchmarks.bench_kernel

# Under `make bench` without FULL=1 the sizes shrink; each target by itself is of full size unless told otherwise.
QUICK := $(if $(filter bench,$(MAKECMDGOALS)),$(if $(filter-out 0,$(FULL)),,1))
CONTEST = $(BIN)/python -m benchmarks.contest
SHAPE = $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(LEDGER),--ledger $(LEDGER)) $(if $(MESSAGES),--messages $(MESSAGES))

bench-one: $(PEERS)/.ready ## 1 object of 4 GiB: ours, the seed's loop, rclone, aws, the limits (SIZE_GIB=n, TLS=no, ROUNDS=n)
	$(CONTEST) one --tls $(or $(TLS),both) --size-mib $$(( $(or $(SIZE_GIB),$(if $(QUICK),1,4)) * 1024 )) $(SHAPE)

bench-many: $(PEERS)/.ready ## 64 objects of 64 MiB, the same (FILES=n, TLS=, ROUNDS=)
	$(CONTEST) many --tls $(or $(TLS),both) --files $(or $(FILES),$(if $(QUICK),16,64)) $(SHAPE)

bench-small: $(PEERS)/.ready ## 20,000 objects of 4 KiB, the same, with ledger and reports (FILES=, LEDGER=sqlite, MESSAGES=per_digest)
	$(CONTEST) small --tls $(or $(TLS),no) --files $(or $(FILES),$(if $(QUICK),4000,20000)) $(if $(QUICK),--rounds 3) $(SHAPE)

bench-scale: $(PEERS)/.ready ## the cost of a file from 1,000 to 100,000 of them; FULL=1 to a million (MOST=n, LEDGER=)
	$(BIN)/python -m benchmarks.growth --most $(or $(MOST),$(if $(filter-out 0,$(FULL)),1000000,$(if $(QUICK),10000,100000))) $(if $(LEDGER),--ledger $(LEDGER))

bench-report: $(PEERS)/.ready ## tables and plots of docs/performance.md from benchmarks/results/
	$(BIN)/python -m benchmarks.report

demo: $(READY) ## one event from the trigger to the proof (KEEP=1 leaves it running)
	$(BIN)/hashmill demo $(if $(filter-out 0 no false,$(KEEP)),--keep)

notebook: .venv/.lab ## the example notebooks in JupyterLab, against a running demo, until it is closed (ARGS="--no-browser")
	$(BIN)/hashmill demo --then "$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS) notebook/examples"

.venv/.lab: notebook/lab.txt $(READY)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r notebook/lab.txt || $(BIN)/python -m pip install --quiet --require-hashes -r notebook/lab.txt
	@touch $@

up: $(READY) ## the whole service on this machine, until Ctrl-C
	$(BIN)/hashmill up

docs: $(READY) ## write docs/settings.md anew from the knobs
	$(BIN)/hashmill settings --markdown > docs/settings.md

lock: $(READY) ## resolve the dependencies anew and write the lock files
	$(BIN)/uv lock
	$(BIN)/uv export --quiet --no-emit-project --no-default-groups --format requirements-txt -o requirements.txt
	$(BIN)/uv export --quiet --no-emit-project --all-groups --format requirements-txt -o requirements-all.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url benchmarks/peers.in -o benchmarks/peers.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url -c requirements-all.txt notebook/lab.in -o notebook/lab.txt

clean: ## remove caches and what was built; the environment stays
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .run dist build
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
