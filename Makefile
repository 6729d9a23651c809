# Two commands from a clean clone, nothing installed by hand:
#   make demo   the whole study on drawn videos: data, pretraining, fits, statistics, report, champion, prediction
#   make test   ruff, mypy and pytest, with the whole pipeline on a smaller study
.DEFAULT_GOAL := help
.PHONY: help setup demo test calibrate ui
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0
export DVC_NO_ANALYTICS := 1

help:
	@sed -n 's/^#   /  /p' Makefile
	@echo "  make calibrate  size and power of the paired tests on simulated scores"
	@echo "  make ui     the MLflow UI on this machine (http://127.0.0.1:5000)"

setup:
	@./bootstrap.sh $(VENV)

demo: setup
	@grep -qx 'study: phantom' params.yaml && grep -qx 'scale: demo' params.yaml || { printf '%s\n' \
	  'echolung: params.yaml is not the demonstration.' 'For the demonstration: echolung run --study phantom --scale demo' \
	  'For params.yaml as it is: dvc repro' >&2; exit 1; }
	@dvc repro -q
	@./demo.sh

test: setup
	ruff check .
	ruff format --check .
	mypy
	pytest -n 2

calibrate: setup
	@python benchmarks/calibrate.py

ui: setup
	@echolung ui
