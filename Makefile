# Everything starts from Python 3.11 or newer with pip; `make train` and `make test` install the rest.
PYTHON ?= python3
# cpu, gpu for TensorFlow with CUDA, or serve for `trainer serve`.
EXTRA  ?= cpu
MODEL  ?= cnn_fast
ARGS   ?=

# A Python with PyTorch, to be measured beside.
TORCH_PYTHON ?=

.PHONY: env train test lint format lock bench clean
.DELETE_ON_ERROR:

# Also installs the command .venv/bin/trainer, which runs this checkout from any folder.
env: .venv/installed-$(EXTRA) .venv/bin/trainer

train: env
	.venv/bin/python -m trainer.task --model $(MODEL) $(ARGS)

test: .venv/installed-dev
	.venv/bin/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

format: .venv/installed-dev
	-.venv/bin/ruff check --fix --quiet .
	.venv/bin/ruff format .

# The lock files hold for Python 3.11 to 3.13 on all platforms; cpu comes first and binds the others.
# So what is lowest in gpu is CUDA alone: the versions that TensorFlow was built with, 1 GB lighter.
lock: .venv/installed-dev
	.venv/bin/uv pip compile $(LOCK) pyproject.toml -o requirements/cpu.txt
	.venv/bin/uv pip compile $(LOCK) --upgrade --resolution lowest -c requirements/cpu.txt --extra gpu pyproject.toml -o requirements/gpu.txt
	.venv/bin/uv pip compile $(LOCK) -c requirements/cpu.txt --extra serve pyproject.toml -o requirements/serve.txt
	.venv/bin/uv pip compile $(LOCK) -c requirements/cpu.txt -c requirements/serve.txt --extra dev --extra export --extra serve pyproject.toml -o requirements/dev.txt

LOCK = --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11

bench: .venv/installed-dev
	.venv/bin/python -m benchmarks.bench $(if $(TORCH_PYTHON),--torch-python $(TORCH_PYTHON)) $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The lock has all there is to install. Older pips would resolve again what an extra asks for, unpinned.
.venv/installed-%: requirements/%.txt | .venv/bin/python
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	@touch $@

# Links to this checkout; all that it needs is installed before, so nothing is downloaded.
.venv/bin/trainer: | .venv/installed-$(EXTRA)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("$(PYTHON) is Python %d.%d, expected 3.11 to 3.13; give another: make PYTHON=python3.12" % sys.version_info[:2] if not (3, 11) <= sys.version_info < (3, 14) else 0)'
	$(PYTHON) -m venv .venv
