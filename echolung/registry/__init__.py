"""The model registry: champions, promotion and rollback."""
