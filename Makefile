# Every target first makes .venv or completes it; once that is done, it takes no time. PYTHON=python3.12 chooses another
# Python than the first fitting one on PATH. ARGS="..." is passed on to pytest.
python := .venv/bin/python

.PHONY: help setup demo demo-seg demo-cls test test-classic wheel bench lint docs clean

help:
	@echo 'make setup     .venv with everything, pinned (once, 5 to 15 minutes)'
	@echo 'make demo      train, test and show Mask R-CNN with a small VMamba on a photograph (5 minutes)'
	@echo 'make demo-seg  the same for UperNet'
	@echo 'make demo-cls  a classifier of handwritten digits, with VMamba (2 minutes)'
	@echo 'make test      the test suite'
	@echo 'make test-classic  the test suite on the original OpenMMLab libraries, in .venv-classic'
	@echo 'make wheel     source distribution and wheel: dist (needs only Python and gcc; 1 minute)'
	@echo 'make bench     what the scan and the backbones cost on this machine'
	@echo 'make lint      ruff: rules and format'
	@echo 'make docs      the documentation as a site: build/site/index.html (needs only Python; 1 minute once)'
	@echo 'make clean     remove what the demos, the tests and builds left; .venv stays'

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

# The generator has an environment of its own and reads the docstrings from the source: no set-up is needed.
docs: build/docs/bin/mkdocs
	rm -rf build/pages && mkdir -p build/pages
	cp -r --parents *.md LICENSE benchmarks/README.md benchmarks/results/*.png configs docs build/pages
	NO_MKDOCS_2_WARNING=1 $< build --strict --quiet
	@echo 'build/site/index.html'

build/docs/bin/mkdocs: docs/requirements.txt
	$(or $(PYTHON),python3) -m venv build/docs
	build/docs/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache data/coins data/digits work_dirs/demo
