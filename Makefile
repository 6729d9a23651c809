# Two commands from a clean clone, nothing installed by hand:
#   make demo   the whole study on phantoms: data, pretraining, probes, statistics, report, champion, prediction
#   make test   ruff, mypy and pytest, the whole pipeline on a smaller study included
.DEFAULT_GOAL := help
.PHONY: help setup demo test ui clean
VENV := .venv
BIN := $(VENV)/bin
STUDIES := $(wildcard conf/study/*.yaml)
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0
export DVC_NO_ANALYTICS := 1

help:
	@sed -n 's/^#   /  /p' Makefile
	@echo "  make ui     the MLflow UI on this machine (http://127.0.0.1:5000)"
	@echo "  make clean  forget everything derived (videos you brought, and DVC's cache, stay)"

setup:
	@./bootstrap.sh $(VENV)

demo: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro
	@PATH="$(CURDIR)/$(BIN):$$PATH" ./demo.sh

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -n 2 --dist loadfile

ui: setup
	@$(BIN)/echolung ui

clean:
	rm -rf $(patsubst conf/study/%.yaml,data/%,$(STUDIES)) $(patsubst conf/study/%.yaml,data/%-runs,$(STUDIES)) \
	  $(patsubst conf/study/%.yaml,data/raw/%,$(STUDIES)) $(patsubst conf/study/%.yaml,reports/%,$(STUDIES)) \
	  data/demo data/locks mlruns/mlflow.db mlruns/artifacts dvc.lock
