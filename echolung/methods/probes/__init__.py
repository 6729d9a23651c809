"""Probes on frozen tokens."""
