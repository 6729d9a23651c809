"""Ray: sessions, trials, and pretraining on one or many workers."""
