# Targets: see `make help`.
#
# Needs cargo, gcc, make and Python 3.11 or later with pip. Everything else goes into .venv,
# which is made on demand; stamp files there keep repeated runs quick.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GOLDEN     ?= tests/data/golden
RECORDINGS ?= tests/data/recordings
LAYOUTS    ?= $(wildcard tests/data/layouts.jsonl)
CORPUS     ?= $(wildcard tests/data/dmesg-corpus.jsonl)
FIDELITY   ?=
SECONDS    ?= 60
EVENTS     ?= 100000000
OUT        ?= demo-out

PYTHON := $(shell command -v python3.11 || command -v python3 || echo python3.11-or-later-is-missing)
VENV   := .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check

CARGO_SOURCES := Cargo.toml Cargo.lock $(shell find src -name '*.rs')
EXAMPLE        = cargo run --quiet --release --features testing --example

# The requirements of some extras of pyproject.toml, one a line.
EXTRAS = $(PY) -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*p["dependencies"], *(r for e in sys.argv[1:] for r in p["optional-dependencies"][e]), sep="\n")'

# $(call fill,FILE,MARKER,TEXTFILE): replace what stands between `<!-- MARKER -->` and
# `<!-- /MARKER -->` in FILE by TEXTFILE, as a block of plain text.
define fill
	@awk -v marker='$(2)' -v text='$(3)' ' \
	  index($$0, "<!-- /" marker " -->") { inside = 0 } \
	  !inside { print } \
	  index($$0, "<!-- " marker " -->") { inside = 1; found = 1; print "```text"; \
	    while ((getline line < text) > 0) print line; print "```" } \
	  END { if (!found) { print "no marker " marker > "/dev/stderr"; exit 1 } }' $(1) > $(1).new
	@mv $(1).new $(1)
endef

.PHONY: help demo test check golden recordings traces boots bench fuzz stress notebooks docs test-all follow
.PHONY: bench-replay published sweep-check
.PHONY: build deps-dev rustfmt clippy cargo-test cargo-doc pytest stubtest ruff data readme dist clean
.PHONY: performance instructions instructions-store
.PHONY: operations mutants miri deny drawings gallery report-check

help:
	@echo 'make demo        build, replay the packaged recording, draw pictures into $(OUT)/'
	@echo 'make test        everything that CI runs'
	@echo 'make check       the fast part of it'
	@echo 'make golden      GOLDEN=DIR       every golden file below DIR, whole state'
	@echo 'make recordings  RECORDINGS=DIR   every recorded run below DIR [FIDELITY=docs/fidelity.md]'
	@echo 'make traces      RECORDINGS=DIR   every trace below DIR: counts, Parquet and text and back'
	@echo 'make boots       LAYOUTS=FILE CORPUS=FILE   boots and public boot logs, recomputed'
	@echo 'make stress      threads and random operations, for long'
	@echo 'make published   the measurements of 2017 beside the models [PUBLISHED=FILE]'
	@echo 'make follow      RECORDINGS=DIR   every trace below DIR without its start state, judged by it'
	@echo 'make bench-replay [EVENTS=n]      replays: events a second, and a stream of n events with its peak memory'
	@echo 'make operations  OPERATIONS=n      n random operations judged one by one, from where it stopped'
	@echo 'make mutants           rules changed one at a time: the tests must notice each'
	@echo 'make miri | deny       the core under Miri; licences and bans of dependencies (needs cargo-deny)'
	@echo 'make sweep-check       a sweep of 200 points run in every way: the same bytes'
	@echo 'make gallery     RECORDINGS=DIR   every picture on recorded data, one by one and on a sheet, into build/gallery/'
	@echo 'make report-check  RECORDINGS=DIR   a report of every trace, opened in headless Chromium (needs chromium)'
	@echo 'make bench       measure everything; record, picture, docs/performance.md'
	@echo 'make instructions      instructions an operation against those stored (needs valgrind)'
	@echo 'make docs        the site, into site/; make drawings: the drawings of the page on the model'
	@echo 'make fuzz SECONDS=n | notebooks | readme | performance | instructions-store | test-all | clean'

# ---- environment and build -------------------------------------------------------------

# Where ensurepip is missing, the outer pip installs a pip into the new environment; where
# the venv module is missing as well, virtualenv is fetched for this one use.
$(VENV)/.made:
	$(PYTHON) -m venv $(VENV) 2>/dev/null \
	  || { rm -rf $(VENV); $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(PY) install --quiet pip; } \
	  || { rm -rf $(VENV); $(PYTHON) -m pip install --quiet --target build/virtualenv virtualenv \
	       && PYTHONPATH=build/virtualenv $(PYTHON) -m virtualenv --quiet $(VENV); }
	@touch $@

# What the build and the demo need.
$(VENV)/.deps-run: $(VENV)/.made pyproject.toml
	$(PIP) 'maturin>=1.16,<2' $$($(EXTRAS) plot cli)
	@touch $@

$(VENV)/.deps-dev: $(VENV)/.deps-run
	$(PIP) $$($(EXTRAS) dev analysis dask docs)
	@touch $@

deps-dev: $(VENV)/.deps-dev

# The extension module, optimised, into python/percpu/; the package is on the path of .venv.
$(VENV)/.built: $(VENV)/.deps-run $(CARGO_SOURCES) pyproject.toml
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --quiet
	@touch $@

build: $(VENV)/.built

# ---- the demo --------------------------------------------------------------------------

demo: build
	$(BIN)/percpu demo --out $(OUT)

# Writes the true output of the demo and the figures of the other pages into the README, and the picture of the demo
# into docs/img/.
readme: build
	@mkdir -p build docs/img
	$(BIN)/percpu demo --out $(OUT) | tee build/demo.txt
	$(call fill,README.md,demo-output,build/demo.txt)
	cp $(OUT)/chunk.png docs/img/chunk.png
	$(PY) docs/figures.py

# ---- tests -----------------------------------------------------------------------------

test: rustfmt clippy cargo-test cargo-doc build pytest stubtest ruff data

check: rustfmt ruff build
	cargo clippy --quiet --all-targets --features testing -- -D warnings
	cargo test --quiet --features testing --lib
	$(PY) -m pytest -q -m 'not slow'

rustfmt:
	cargo fmt --check

clippy: $(VENV)/.deps-run
	cargo clippy --quiet --all-targets --features testing -- -D warnings
	PYO3_PYTHON=$(abspath $(PY)) cargo clippy --quiet --all-targets --features testing,python -- -D warnings

# Needs no Python.
cargo-test:
	cargo test --quiet --features testing

# Nor does this.
cargo-doc:
	RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps --features testing

pytest: build $(VENV)/.deps-dev
	$(PY) -m pytest -q

stubtest: build $(VENV)/.deps-dev
	$(PY) -m mypy.stubtest percpu._core

ruff: $(VENV)/.deps-dev
	$(BIN)/ruff check --quiet python tests docs/*.py docs/examples $(wildcard benches)
	$(BIN)/ruff format --quiet --check python tests docs/*.py docs/examples $(wildcard benches)

# The recorded data that is part of a clone, each as far as it is there.
data:
	@if [ -d tests/data/golden ]; then $(MAKE) --no-print-directory golden GOLDEN=tests/data/golden; fi
	@if [ -d tests/data/recordings ]; then $(MAKE) --no-print-directory recordings RECORDINGS=tests/data/recordings FIDELITY=; fi
	@if [ -f tests/data/layouts.jsonl ] && [ -f tests/data/dmesg-corpus.jsonl ]; then $(MAKE) --no-print-directory boots \
	  LAYOUTS=tests/data/layouts.jsonl CORPUS=tests/data/dmesg-corpus.jsonl; fi

# FIDELITY=docs/fidelity.md writes the figures of these three into that document.
TABLE = $(if $(FIDELITY),--table $(FIDELITY))

golden:
	$(EXAMPLE) golden -- $(GOLDEN) $(TABLE)

recordings:
	$(EXAMPLE) recordings -- $(RECORDINGS) $(TABLE)

# Every trace below RECORDINGS: counts as recorded, to Parquet and text and back, in blocks.
traces: build $(VENV)/.deps-dev
	$(PY) tests/traces.py $(RECORDINGS)

boots:
	@test -n '$(LAYOUTS)' -a -n '$(CORPUS)' || { echo 'make boots LAYOUTS=FILE CORPUS=FILE' >&2; exit 2; }
	$(EXAMPLE) boots -- $(LAYOUTS) $(CORPUS) $(TABLE)

# Replays without a state: live captures too.
follow:
	$(EXAMPLE) follow -- $(RECORDINGS)

# ---- long work, out of CI --------------------------------------------------------------

# The tables of 2017 on the models, into docs/published-comparison.md.
PUBLISHED ?= docs/published-comparison.md
published: build
	@mkdir -p build
	$(EXAMPLE) bitmap_work -- $(RECORDINGS) > build/block-work.md
	$(PY) -m percpu.published --recordings $(RECORDINGS) --place 'block work=build/block-work.md' \
	  $(if $(PUBLISHED),--write $(PUBLISHED))

# Every picture, on recorded data: for eyes.
gallery: build $(VENV)/.deps-dev
	$(PY) tests/gallery.py $(RECORDINGS) --out build/gallery

# Reports of every trace and of 10^6 events, opened in a browser without network: sizes, errors, screenshots.
report-check: build $(VENV)/.deps-dev
	$(PY) tests/report_check.py $(RECORDINGS) --out build/report-check

# Measures everything, keeps a record and a picture, fills docs/performance.md.
bench: build $(VENV)/.deps-dev
	$(PY) benches/bench.py
	cargo bench --quiet --bench trace

# The tables of docs/performance.md and the picture from the newest record.
performance: $(VENV)/.deps-dev
	$(PY) benches/report.py

# Instructions an operation, counted by callgrind, against those stored.
instructions: $(VENV)/.deps-run
	$(PY) benches/instructions.py

instructions-store: $(VENV)/.deps-run
	$(PY) benches/instructions.py --store

bench-replay:
	cargo bench --quiet --bench replay -- tests/data/recordings/million-612-2cpu --events $(EVENTS) --out benches/results

# Random operations, then each target of fuzz/ for SECONDS: needs the nightly toolchain and cargo-fuzz. Figures into docs/trust.md.
FUZZ_TARGETS = $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
fuzz:
	$(EXAMPLE) fuzz -- $(SECONDS)
	@cargo fuzz --version >/dev/null 2>&1 || { echo 'make fuzz needs cargo-fuzz: cargo install cargo-fuzz' >&2; exit 2; }
	@mkdir -p build && : > build/fuzz.txt
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/corpus/$$target; \
	  cargo +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	    -max_total_time=$(SECONDS) -max_len=8192 -timeout=20 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 2> build/fuzz.log \
	    || { cat build/fuzz.log; echo "fuzz: $$target failed; its input is below fuzz/artifacts/$$target" >&2; exit 1; }; \
	  awk -v target=$$target '/number_of_executed_units/ { printf "%-12s %10d inputs in $(SECONDS) s, no finding\n", target, $$2 }' \
	    build/fuzz.log | tee -a build/fuzz.txt; \
	done
	$(call fill,docs/trust.md,libfuzzer,build/fuzz.txt)
	@echo 'fuzz: $(words $(FUZZ_TARGETS)) targets, $(SECONDS) s each, no finding'

# Random operations on small maps and a hundredth of them on those of a kernel; both go on from their files, as long as they
# are there. Figures into docs/trust.md.
OPERATIONS ?= 1000000000
operations:
	@mkdir -p build
	$(EXAMPLE) fuzz -- operations small $(OPERATIONS) fuzz/runs/small.json
	$(EXAMPLE) fuzz -- operations kernel $$(($(OPERATIONS) / 100)) fuzz/runs/kernel.json
	$(EXAMPLE) fuzz -- figures fuzz/runs/small.json fuzz/runs/kernel.json > build/operations.txt
	$(call fill,docs/trust.md,operations,build/operations.txt)

# Every rule of tests/mutants.toml changed; which test notices. Into docs/trust.md.
mutants:
	@mkdir -p build
	$(PYTHON) tests/mutants.py --report build/mutants.txt
	$(call fill,docs/trust.md,mutants,build/mutants.txt)

# The core's tests of words, blocks and chunks, interpreted: needs the nightly toolchain with miri and rust-src.
miri:
	PROPTEST_CASES=4 PROPTEST_DISABLE_FAILURE_PERSISTENCE=1 MIRIFLAGS=-Zmiri-disable-isolation CARGO_TARGET_DIR=build/miri \
	  cargo +nightly miri test --quiet --lib -- bitmap:: block:: chunk:: slots:: geometry:: units::

deny:
	@cargo deny --version >/dev/null 2>&1 || { echo 'make deny needs cargo-deny: cargo install cargo-deny' >&2; exit 2; }
	cargo deny check licenses bans sources

# 8 threads on one allocator, a million operations each, 20 times in a row for each generation; then
# 3000 runs of the state machine. Figures into docs/trust.md.
ROUNDS ?= 20
stress: build $(VENV)/.deps-dev
	@mkdir -p build
	for round in $$(seq $(ROUNDS)); do \
	  PERCPU_STRESS=1000000 $(PY) -m pytest -q -k eight_threads tests/python/test_processes.py | tail -1; \
	done | tee build/stress.txt
	PERCPU_EXAMPLES=3000 $(PY) -m pytest -q tests/python/test_stateful.py | tail -1 | tee -a build/stress.txt
	$(call fill,docs/trust.md,stress,build/stress.txt)

# The same bytes with 1 and 2 threads, on a cluster, after kill -9; the speed-up of 2 threads.
sweep-check: build $(VENV)/.deps-dev
	$(PY) tests/sweep_check.py

notebooks: build $(VENV)/.deps-dev
	$(PY) -m pytest -q --nbmake --nbmake-timeout=600 -p no:cacheprovider -W default notebooks

# Warnings and dead links are errors; notebooks are run; needs no network.
docs: build $(VENV)/.deps-dev
	env -u MPLBACKEND NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet --site-dir site
	$(PY) docs/check_site.py site

# The drawings of docs/model.md.
drawings: build
	$(PY) docs/drawings.py

# A source archive and a wheel, each installed and tried where nothing else is, without a network from then on where the
# system lets one do without.
DIST_PROFILE ?= release
APART := $(shell unshare --map-root-user --net true 2>/dev/null && echo unshare --map-root-user --net)
TRY = import percpu; a = percpu.Allocator(unit_size=1 << 20, nr_units=2); a.free(a.alloc(8)); a.verify()
dist: $(VENV)/.deps-dev
	rm -rf build/dist build/clean
	$(BIN)/maturin build --profile $(DIST_PROFILE) --sdist --quiet --out build/dist
	for file in build/dist/*.whl build/dist/*.tar.gz; do \
	  rm -rf build/clean && $(PY) -m venv build/clean \
	  && build/clean/bin/python -m pip install --quiet --disable-pip-version-check $$file \
	  && build/clean/bin/python -m pip check \
	  && (cd build/clean && $(APART) bin/percpu kernels > /dev/null && $(APART) bin/python -c '$(TRY)') \
	  && echo "dist: $$(basename $$file) installs and runs" || exit 1; \
	done

test-all: test sweep-check golden recordings notebooks docs dist fuzz
	$(if $(LAYOUTS),$(if $(CORPUS),@$(MAKE) --no-print-directory boots))

clean:
	rm -rf $(VENV) build dist site $(OUT) python/percpu/*.so
