# Every target except test-classic, wheel, docs and clean first creates or completes .venv; a complete .venv takes no time.
# PYTHON=python3.12 selects another Python than the first suitable one on PATH. ARGS="..." is passed to pytest.
python := .venv/bin/python

.PHONY: help setup demo demo-seg demo-cls test test-classic wheel bench lint docs clean

help:
	@echo 'make setup         create .venv with pinned versions of everything (once, 5 to 15 minutes)'
	@echo 'make demo          train and test Mask R-CNN with a small VMamba on a photograph, draw predictions (5 minutes)'
	@echo 'make demo-seg      the same for UperNet'
	@echo 'make demo-cls      train and test a classifier of handwritten digits with VMamba (2 minutes)'
	@echo 'make test          run the test suite'
	@echo 'make test-classic  run the test suite with the original OpenMMLab libraries, in .venv-classic'
	@echo 'make wheel         build the source distribution and the wheel in dist (needs only Python and gcc; 1 minute)'
	@echo 'make bench         measure time and memory of the scan and the backbones on this machine'
	@echo 'make lint          check code and documentation: ruff, proselint'
	@echo 'make docs          build the documentation: build/site/index.html (needs only Python; 1 minute the first time)'
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
	$(python) .ci/prose.py

# mkdocs has its own environment and reads the docstrings from the source, so .venv is not needed.
docs: build/docs/bin/mkdocs
	rm -rf build/pages && mkdir -p build/pages
	cp -r --parents *.md LICENSE benchmarks/*.md benchmarks/results/*.png configs docs build/pages
	NO_MKDOCS_2_WARNING=1 $< build --strict --quiet
	@echo 'build/site/index.html'

build/docs/bin/mkdocs: docs/requirements.txt
	$(or $(PYTHON),python3) -m venv build/docs
	build/docs/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache data/coins data/digits work_dirs/demo
