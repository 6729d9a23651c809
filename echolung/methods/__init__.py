"""Methods: how out-of-fold answers come about."""
