# Every target first makes .venv or completes it; once that is done, it takes no time. PYTHON=python3.12 chooses another
# Python than the first fitting one on PATH. ARGS="..." is passed on to pytest.
python := .venv/bin/python

.PHONY: help setup demo demo-seg demo-cls test bench lint clean

help:
	@echo 'make setup     .venv with everything, pinned (once, 5 to 15 minutes)'
	@echo 'make demo      train, test and show Mask R-CNN with a small VMamba on a photograph (5 minutes)'
	@echo 'make demo-seg  the same for UperNet'
	@echo 'make demo-cls  a classifier of handwritten digits, with VMamba (2 minutes)'
	@echo 'make test      the test suite'
	@echo 'make bench     what the scan and the backbones cost on this machine'
	@echo 'make lint      ruff: rules and format'
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

bench: setup
	$(python) benchmarks/scan.py
	$(python) benchmarks/backbone.py --sizes 224 512 1024

lint: setup
	$(python) -m ruff check .
	$(python) -m ruff format --check .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache data/coins data/digits work_dirs/demo
