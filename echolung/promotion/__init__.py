"""From candidate to champion: what the evidence allows to serve, and what travels with it."""
