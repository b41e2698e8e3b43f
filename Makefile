# Every target except test-classic, wheel, lock, audit, docs and clean first creates or completes .venv; a complete .venv takes no time.
# PYTHON=python3.12 selects another Python than the first suitable one on PATH. ARGS="..." is passed to pytest,
# to uv in `make lock`, and to the script of `make audit`.
python := .venv/bin/python

.PHONY: help setup demo demo-seg demo-cls test test-fast test-classic wheel bench lint lock audit docs clean

help:
	@echo 'make setup         create .venv with pinned versions of everything (once, 5 to 15 minutes; GPUs: docs/install.md)'
	@echo 'make demo          train and test Mask R-CNN with a small VMamba on a photograph, draw predictions (5 minutes)'
	@echo 'make demo-seg      the same for UperNet'
	@echo 'make demo-cls      train and test a classifier of handwritten digits with VMamba (2 minutes)'
	@echo 'make test          run the test suite'
	@echo 'make test-fast     test only models and kernels (3 minutes)'
	@echo 'make test-classic  run the test suite with the original OpenMMLab libraries, in .venv-classic'
	@echo 'make wheel         build the source distribution and the wheel in dist (needs only Python and gcc; 1 minute)'
	@echo 'make bench         measure time and memory of the scan and the backbones on this machine'
	@echo 'make lint          check code, types, documentation and licences'
	@echo 'make lock          resolve the pinned versions into lock files with hashes (needs only Python and PyPI)'
	@echo 'make audit         ask PyPI for known vulnerabilities of the locked packages (needs only Python and PyPI)'
	@echo 'make docs          build the documentation: build/site/index.html (needs Python 3.11; 1 minute the first time)'
	@echo 'make clean         delete results of demos, tests and builds; keeps .venv'

setup:
	@bash tools/setup_venv.sh

demo: setup
	@bash tools/demo.sh det

demo-seg: setup
	@bash tools/demo.sh seg

demo-cls: setup
	@bash tools/demo.sh cls

test: setup
	$(python) -m pytest -n 2 $(ARGS)

test-fast: setup
	$(python) -m pytest -n 2 -m 'not slow' tests/test_models tests/test_ops $(ARGS)

test-classic:
	@bash tools/setup_classic.sh
	.venv-classic/bin/python -m pytest -n 2 $(ARGS)

wheel:
	@bash tools/build_wheel.sh

bench: setup
	$(python) benchmarks/scan.py
	$(python) benchmarks/backbone.py --sizes 224 512 1024

lint: setup
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	.venv/bin/basedpyright
	$(python) .ci/prose.py
	git ls-files | xargs .venv/bin/codespell
	git ls-files '*.[ch]' '*.[ch]pp' '*.inc' | xargs .venv/bin/clang-format --dry-run --Werror
	test ! -x .venv/bin/shellcheck || git ls-files '*.sh' .ci/run | xargs .venv/bin/shellcheck
	.venv/bin/pip-licenses >/dev/null

# Each lock file contains the pins of the .txt file next to it, their dependencies, and hashes.
compile = UV_CUSTOM_COMPILE_COMMAND='make lock' UV_PYTHON_DOWNLOADS=never \
	build/audit/bin/uv pip compile --quiet --universal --generate-hashes $(ARGS)

lock: build/audit/bin/uv
	$(compile) --python-version 3.10 requirements.txt --output-file requirements.lock
	$(compile) --python-version 3.12 docker/requirements.txt --output-file docker/requirements.lock
	$(compile) --python-version 3.10 --no-deps tests/requirements_peft.txt --output-file tests/requirements_peft.lock
	$(compile) --python-version 3.11 docs/requirements.txt --output-file docs/requirements.lock
	$(compile) --python-version 3.10 .ci/requirements_audit.txt --output-file .ci/requirements_audit.lock
	$(compile) --python-version 3.10 .ci/requirements_wheel.txt --output-file .ci/requirements_wheel.lock

audit: build/audit/bin/uv
	build/audit/bin/python .ci/audit.py $(ARGS)

build/audit/bin/uv: .ci/requirements_audit.lock
	$(or $(PYTHON),python3) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	touch $@

# mkdocs has its own environment and reads the docstrings from the source, so .venv is not needed.
docs: build/docs/bin/mkdocs
	rm -rf build/pages && mkdir -p build/pages
	cp -r --parents *.md LICENSE benchmarks/*.md benchmarks/results configs docs build/pages
	NO_MKDOCS_2_WARNING=1 $< build --strict --quiet
	@echo 'build/site/index.html'

build/docs/bin/mkdocs: docs/requirements.lock
	$(or $(PYTHON),python3) -m venv build/docs
	build/docs/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache data/coins data/digits work_dirs/demo
