# Two commands on a fresh machine with Python >= 3.11, git and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Python keeps the modules that it has compiled, whatever the environment says: without them each
# process of the tests spends 6 seconds of processor time on compiling torch again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit test-all test-peers test-wheel lowest gpu docs docs-notebooks lint check format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make the environment in .venv

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "nonlocalnet needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) -V). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[explore,hub]' --group dev
	@touch $@

demo: setup  ## train a local and a non-local network on video files; writes demo/report.html
	$(BIN)/python examples/demo.py --out demo

test-unit: setup  ## run the unit tests: no processes, no video files, under a minute
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow' tests/unit

test: setup  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-all: setup  ## run the tests, the slow ones too
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

PEERS := .peers/bin
test-peers: setup  ## tests with the packages whose blocks nl.accelerate knows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .peers
	$(BIN)/uv pip install --quiet --python $(PEERS)/python --editable '.[video]' --group peers pytest
	$(PEERS)/python -m pytest -o addopts= -q tests/peers

test-wheel: setup  ## build the sdist and the wheel, and try them in empty environments
	$(BIN)/python -m pytest -o addopts= -q tests/packaging

docs: setup  ## build the documentation: docs/_build/html/index.html
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build/html

docs-notebooks: setup  ## run the tutorials as notebooks, in their order, in docs/_build/run
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group docs
	rm -rf docs/_build/run
	$(BIN)/python docs/notebooks.py docs/_build/run

gpu:  ## check and measure all on a GPU, in 9 minutes, with the torch that PYTHON has; OUT=FOLDER
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py --out $(or $(OUT),gpu)

LOWEST := .lowest/bin
lowest: setup  ## tests and commands with the lowest versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .lowest
	$(BIN)/uv pip install --quiet --python $(LOWEST)/python --resolution lowest-direct \
	  --editable '.[explore,hub,coco,tensorboard]' --group dev
	$(LOWEST)/python -c 'from nonlocalnet.data.synthetic import write_same_color as write; \
	  [write(f".lowest/videos/{split}", 8, seed) for seed, split in enumerate(("train", "val"))]'
	$(LOWEST)/nonlocalnet data check .lowest/videos
	$(LOWEST)/nonlocalnet data resize .lowest/videos .lowest/small --short-side 16
	$(LOWEST)/nonlocalnet train --data .lowest/videos --out .lowest/run --model c2d_tiny_nl2 --clip 4x2 \
	  --crop 32 --short-side 32 32 --iterations 2 --batch-size 4 --workers 1 --device cpu
	$(LOWEST)/nonlocalnet test --data .lowest/videos/val --weights .lowest/run/model.safetensors --device cpu
	$(LOWEST)/nonlocalnet predict .lowest/videos/val/same/00001.mp4 \
	  --weights .lowest/run/model.safetensors --device cpu
	$(LOWEST)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

lint: setup  ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check src
	$(BIN)/lint-imports

check: lint test  ## all that must pass

format: setup  ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was built; your runs/ stay
	rm -rf .venv .lowest .peers docs/_build demo dist .pytest_cache .ruff_cache
