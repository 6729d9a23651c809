"""What everything stands on: parameters, errors, files."""
