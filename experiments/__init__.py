"""Experiments, one a file, and the entry point that runs them."""
