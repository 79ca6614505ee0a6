# make demo        simulate, train, calibrate, evaluate, rank, serve, break and mend: out/demo/report.html, drill.html
# make check       linters, types, layers          make test        all tests and doctests that are not slow
# make bench       small benchmarks, as JSON       make test-slow   the slow ones
# make docs        API reference into out/docs     make sanitize    tests of tables under GCC's sanitizers
# make chaos       a server in trouble under load  make fuzz        10^5 spoiled requests to a server
# make clean       forget what was built; keep runs/
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
# One variable for what is installed and one for what builds it: pip before 25.3 knows only the first, for both.
# With the last, an error in cpp/ stops the install, which otherwise goes on without the extension.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt RANKWELL_MUST_COMPILE=1 \
    $(BIN)/python -m pip install --quiet --disable-pip-version-check
GROUND := pyproject.toml constraints.txt CMakeLists.txt $(wildcard cpp/*)
# A benchmark takes --json FILE; what makes it small goes here, under its name. Some need data that is not here, and
# measure nothing without: make bench DRIFT_STREAMS=DIR names the folder of elec.parquet.
SMALL_training_throughput := --rows 40000 --repeats 2
SMALL_read_batches := --rows 2000000 --repeats 2
SMALL_simulate := --repeats 1
SMALL_table_step := --rows 100000 --seen 10000 100000 --rounds 2 --steps 10 --threads 1 --without-peers
SMALL_row_memory := --rows 1000000 --samples 1000000 --max-rows 100000
SMALL_file_table := --rows 300000 --rounds 2 --steps 20 --resident-mib 16
SMALL_wide_deep_rate := --ids 20000 --sample 200000 --steps 8 --rounds 2 --hidden 256-128 --without-peers
SMALL_history_once := --requests 8 --rounds 3
SMALL_attention_growth := --rounds 3 --requests 20
SMALL_ftrl_zeros := --requests 2000 --seeds 1 2
SMALL_marketplace_order := --requests 1500 --seeds 2
SMALL_distillation := --requests 1500 --teacher-width 32 --teacher-epochs 1 --student-epochs 1 --draws 20
SMALL_sequential_calibration := --runs 50 --panes 500
SMALL_winners_curse := --requests 300 --seeds 2
SMALL_off_policy := --rows 100000 1000000 --repeats 1
SMALL_off_policy_coverage := --logs 50
SMALL_examination := --requests 8000 --seeds 1
SMALL_feature_store := --items 20000 --members 2000 --requests 300
SMALL_calibration_speed := --points 200000 --rounds 1 --without-peers
SMALL_segment_calibration := --rows 50000 --seeds 1 --samples 5 --without-peers
SMALL_scorer := --requests 5 --rounds 1 --kinds history
SMALL_serving := --requests 100 --runs 1 --cases history --overload-s 1 --without-peers
SMALL_int8_rows := --requests 1500 --seeds 1
SMALL_served_log := --answers 2000
SMALL_chaos := --seconds 2
SMALL_fuzz := --requests 2000 --without-peers
SMALL_watch_cost := --pairs 2 --seconds 5 --day 400
SMALL_elec := --rows 3000 $(if $(DRIFT_STREAMS),--data $(DRIFT_STREAMS))
SMALL_drift_pass := --rows 50000 --rounds 2 --without-peers
SMALL_flink_panes := --requests 2000 --without-peers
BENCHMARKS := $(patsubst benchmarks/%.py,out/bench/%.json,$(wildcard benchmarks/*.py))

.PHONY: help demo test test-slow sanitize check bench chaos fuzz docs clean

help:
	@sed -n 's/^# //p' Makefile | head -6

demo: .venv/.runtime
	$(BIN)/rankwell demo --out out/demo
	$(BIN)/rankwell drill calibration-bug --bundle out/demo/bundle --out out/demo/drill.html

# The tables twice: without the extension first, as where there is no compiler. Both run even where one fails, and
# what comes last is the closing line of a run that failed, if one did.
test: .venv/.installed
	@mkdir -p out; plain=0; all=0; \
	echo "--- tables without their compiled extension"; \
	RANKWELL_NATIVE=0 $(BIN)/python -m pytest tests/tables src/rankwell/tables | tee out/test_plain.txt || plain=$$?; \
	echo "--- everything"; \
	$(BIN)/python -m pytest || all=$$?; \
	if [ $$plain -ne 0 ] && [ $$all -eq 0 ]; then \
	    echo "--- tables without their compiled extension, above:"; tail -n 1 out/test_plain.txt; \
	fi; \
	exit $$((plain ? plain : all))

test-slow: .venv/.installed
	$(BIN)/python -m pytest -m slow --timeout 3600

# Each pass makes a build of its own, which RANKWELL_NATIVE has the tests load; a report ends it with a status that is
# not 0. Python and torch are not instrumented: the sanitizer's runtime is loaded before them, with libstdc++, whose
# exceptions it intercepts; leaks, which Python has by design, and races in others' code are not asked for.
sanitize: .venv/.installed
	@one_pass() { \
	    echo "--- $$1"; rm -rf "out/sanitize/$$1"; \
	    $(PIP) --no-deps --target "out/sanitize/$$1" --config-settings=install.strip=false \
	        --config-settings=cmake.define.RANKWELL_SANITIZE="$$1" .; \
	    RANKWELL_NATIVE="$$(ls out/sanitize/$$1/rankwell/tables/_native.*)" \
	    LD_PRELOAD="$$($(CXX) -print-file-name=$$2) $$($(CXX) -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1 \
	    $(BIN)/python -m pytest --capture=sys tests/tables; \
	}; \
	one_pass address,undefined libasan.so; \
	one_pass thread libtsan.so

# Each step runs even where an earlier one failed: one run shows everything that is to be mended.
check: .venv/.installed
	@failed=""; \
	for step in "ruff check ." "ruff format --check ." "mypy" "lint-imports --no-logo"; do \
	    echo "--- $$step"; $(BIN)/$$step || failed="$$failed [$$step]"; \
	done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

bench: $(BENCHMARKS)

# A figure is never up to date: it depends on the machine's mood as much as on the code.
.PHONY: $(BENCHMARKS)
$(BENCHMARKS): out/bench/%.json: benchmarks/%.py .venv/.installed
	@mkdir -p out/bench
	$(BIN)/python $< --json $@ $(SMALL_$*)

# Each ends with status 1 where a target is missed.
chaos fuzz: .venv/.installed
	$(BIN)/python benchmarks/$@.py --json out/$@.json

docs: .venv/.docs
	$(BIN)/pdoc --docformat google --output-directory out/docs rankwell '!rankwell.tables._native'
	@echo "out/docs/index.html"

clean:
	rm -rf out build dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests recipes benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("rankwell needs Python 3.11 or newer; this is " + sys.version.split()[0] \
	    + ": make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	    echo "no virtual environment could be made; on Debian: apt-get install python3-venv" >&2; exit 1; }

# Three stamps, from the least that runs to the most: the demo must not wait for a linter's wheels.
.venv/.runtime: $(GROUND) | $(BIN)/python
	$(PIP) -e ".[serve]"
	@touch $@

.venv/.installed: $(GROUND) | $(BIN)/python
	$(PIP) -e ".[dev]"
	@touch .venv/.runtime $@

.venv/.docs: $(GROUND) | $(BIN)/python
	$(PIP) -e ".[docs]"
	@touch .venv/.runtime $@
