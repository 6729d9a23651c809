"""Validation gates: Great Expectations suites that run on a stage's tables before the stage writes its outputs."""

import os

os.environ["GX_ANALYTICS_ENABLED"] = "False"  # Great Expectations reads it when it is imported
