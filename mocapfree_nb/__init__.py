"""Teach a motion diffusion model a new action from text prompts alone."""

__version__ = "0.1.0"
