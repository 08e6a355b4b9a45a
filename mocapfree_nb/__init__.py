"""Teach a text-to-motion diffusion model new actions by reinforcement learning from text prompts alone

Modules:

- `mocapfree_nb.parallel`: Several processes on one training: each has prompts of its own, the gradient is everyone's."""

__version__ = "0.1.0"
