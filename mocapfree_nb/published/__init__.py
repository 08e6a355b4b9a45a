"""Weights and measures of the field: encoders, checkpoints, the evaluation protocol."""
