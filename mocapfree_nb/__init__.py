"""Teach a text-to-motion diffusion model new actions by reinforcement learning from text prompts alone"""

__version__ = "0.1.0"
