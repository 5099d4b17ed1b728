"""The layers of a safety filter, one a file."""
