# Every target sets up the environment that it needs. Nothing but Python 3.11 or newer and make is assumed.

PYTHON ?= python3
BIN := .venv/bin
SEED ?= 0
DEMO := multirun/demo-$(shell date +%Y-%m-%d-%H-%M-%S)
SETTING := -m experiment=demo algo=ppo,grpo,async_grpo task=arithmetic
BOOKING := -m experiment=booking algo=ppo,grpo,async_grpo
PAIRS := hydra/launcher=joblib hydra.launcher.n_jobs=2

# The build of JAX for the accelerator of this machine, if it has one.
EXTRA := $(shell if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then echo ,cuda; \
	elif [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ]; then echo ,tpu; fi)

.PHONY: demo results-demo results-booking results-critic-cost results-group-size results-budget results-staleness \
	results-verdicts-arithmetic results-verdicts-code results-environment-latency test test-all lint docs bench bench-peers bench-seeds bench-accelerator clean .venv

.venv: .venv/installed

# The file is made last, so that an install that was cut off is made again.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("rlbench needs Python 3.11 or newer: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev$(EXTRA)]'
	touch $@

# For tests: reasoning-gym weighs 229 MB, and compiles a part in C. Where it can't, its tests say so.
.venv/reasoning: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[reasoning]' || \
		echo "the tests of task=reasoning_gym are left out: reasoning-gym could not be installed, and wants a C compiler"
	touch $@

demo: .venv
	$(BIN)/rlbench $(SETTING) seed=$(SEED) hydra.sweep.dir=$(DEMO)
	$(BIN)/rlbench-compare $(DEMO)

# Made again, it makes what is missing. It asks for accuracy, not for seconds: two runs at a time.
# AVX and SSE4.2 round differently, as another machine would.
results-demo: .venv
	$(BIN)/rlbench $(SETTING) $(PAIRS) seed=0,1,2,3,4,5,6,7 hydra.sweep.dir=multirun/results-demo/native
	XLA_FLAGS=--xla_cpu_max_isa=AVX $(BIN)/rlbench $(SETTING) $(PAIRS) seed=0,1,2,3 hydra.sweep.dir=multirun/results-demo/AVX
	XLA_FLAGS=--xla_cpu_max_isa=SSE4_2 $(BIN)/rlbench $(SETTING) $(PAIRS) seed=0,1,2,3 hydra.sweep.dir=multirun/results-demo/SSE4_2
	mkdir -p docs/results
	$(BIN)/python -m benchmarks.learned demo multirun/$@ > docs/results/demo.md

# The same of the booking site, and with its faults.
results-booking: .venv
	$(BIN)/rlbench $(BOOKING) $(PAIRS) seed=0,1,2 hydra.sweep.dir=multirun/$@/native
	XLA_FLAGS=--xla_cpu_max_isa=SSE4_2 $(BIN)/rlbench $(BOOKING) $(PAIRS) seed=0 hydra.sweep.dir=multirun/$@/SSE4_2
	$(BIN)/rlbench $(BOOKING) $(PAIRS) seed=0,1,2 task.max_faults=2 hydra.sweep.dir=multirun/$@/faults
	$(BIN)/python -m benchmarks.learned booking multirun/$@ > docs/results/booking.md

# An answer to a question: all seeds of a setting in one process, since FLOPs and rollouts count, not seconds.
results-critic-cost results-group-size results-budget results-staleness: results-%: .venv
	$(BIN)/rlbench -m experiment=$(subst -,_,$*) hydra/launcher=seeds hydra.sweep.dir=multirun/$@/settings
	$(if $(filter staleness,$*),$(BIN)/rlbench -m experiment=staleness algo=async_grpo algo.is_cap=1e6 \
		hydra/launcher=seeds hydra.sweep.dir=multirun/$@/decoupled)
	$(BIN)/python -m benchmarks.results $(subst -,_,$*) multirun/$@ --out docs/results

# Tuned first, then one run after the other: seconds count, too.
results-verdicts-arithmetic results-verdicts-code: results-verdicts-%: .venv
	$(BIN)/python -m benchmarks.verdicts $* multirun/$@
	$(BIN)/python -m benchmarks.results verdicts_$* multirun/$@/verdict --out docs/results

results-environment-latency: .venv
	$(BIN)/rlbench -m experiment=environment_latency hydra.sweep.dir=multirun/$@
	$(BIN)/python -m benchmarks.results environment_latency multirun/$@ --out docs/results

test: .venv .venv/reasoning
	$(BIN)/pytest -m "not slow" -n 2 --dist worksteal

# Two at a time where nothing is asked about seconds, or little.
PAIRED := tests/learning tests/cli/test_killed.py
test-all: test
	$(BIN)/pytest -m slow $(addprefix --ignore ,$(PAIRED))
	$(BIN)/pytest -m slow $(PAIRED) -n 2 --dist worksteal

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Warnings are errors. It opens from disk: build/site/index.html.
docs: .venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml

bench: .venv
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.host
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.checkpoints
	$(BIN)/python -m benchmarks.batching
	$(BIN)/python -m benchmarks.asynchrony
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/verify.py

# Against TRL. What it needs is large, so that it is installed for this alone.
bench-peers: .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[peers]'
	$(BIN)/python -m benchmarks.peers

# On a card: Markdown for docs/results/accelerator.md. TRL is in it where it is installed.
bench-accelerator: .venv
	$(BIN)/python -m benchmarks.accelerator

# Sixteen seeds in one process, against a process each.
bench-seeds: .venv
	$(BIN)/python -m benchmarks.seeds

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
