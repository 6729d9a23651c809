"""Runs in MLflow: one per stage, per pretraining and per task and arm."""
