"""A model that answers for video files, and the form in which MLflow serves it."""
