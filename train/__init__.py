"""Hydra entry points for training."""
