"""Ray: sessions and trials."""
