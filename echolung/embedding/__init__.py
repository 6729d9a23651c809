"""Recordings through frozen encoders: the feature store."""
