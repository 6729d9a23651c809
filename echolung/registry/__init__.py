"""The model registry: champions, their history, promotion and rollback."""
