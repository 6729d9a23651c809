"""Kinds of task: what is predicted, how it is scored, tested, drawn and answered."""
