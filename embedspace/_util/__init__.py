"""Mechanisms that several rooms need: files, progress, provenance, the background loop."""
