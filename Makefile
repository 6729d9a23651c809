# Two commands from a clean clone, nothing installed by hand:
#   make demo   the whole study on phantoms: data, pretraining, probes, statistics, report, champion, prediction
#   make test   ruff, mypy and pytest, the whole pipeline on a smaller study included
.DEFAULT_GOAL := help
.PHONY: help setup demo test ui clean
VENV := .venv
BIN := $(VENV)/bin
# Folders below data/<study>, and the keys below a study's `phantom:`, which are the data sets drawn below data/raw/<study>.
# Nothing else below data is deleted: it may be somebody's videos.
STAGES := ingest split pretrain embed probe compare
DRAWN := '/^[^ \#\r]/ {inside = /^phantom:/; indent = 0} inside && match($$0, /^ +[A-Za-z0-9_-]+:/) \
  {match($$0, /^ +/); if (!indent) indent = RLENGTH; if (RLENGTH == indent) {sub(/:.*/, ""); print $$1}}'
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
	@$(BIN)/python -m echolung.doctor.project
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
	@for file in conf/study/*.yaml; do \
	  study=$$(basename "$$file" .yaml); \
	  for drawn in $$(awk $(DRAWN) "$$file"); do rm -rf "data/raw/$$study/$$drawn"; done; \
	  for stage in $(STAGES); do rm -rf "data/$$study/$$stage"; done; \
	  rm -rf "data/$$study-runs" "reports/$$study"; \
	  rmdir "data/raw/$$study" "data/$$study" 2>/dev/null || true; \
	done
	@rm -rf data/demo data/locks mlruns/mlflow.db mlruns/artifacts dvc.lock
