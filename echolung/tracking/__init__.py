"""The history of runs, kept by MLflow: one run per stage, per pretraining trial and per task x arm."""
