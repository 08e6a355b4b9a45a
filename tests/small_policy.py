"""A policy small enough for a test to train, and a reward it can climb."""

import torch

from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.policy import DiffusionPolicy


def make_policy(prediction="x0", **settings) -> DiffusionPolicy:
    "Six sampling steps of an untrained Transformer denoiser, the same weights at every call."
    torch.manual_seed(0)
    size = {"width": 32, "layers": 2, "heads": 2, "feedforward": 64, "frames_per_token": 4}
    return DiffusionPolicy(MotionDenoiser(prediction=prediction, **size), **{"steps": 6, **settings})


def height(motion, lengths, prompts):
    "The mean of feature 3, the height of the pelvis in metres, over all frames."
    return motion[:, :, 3].mean(1)


def above(motion, lengths, prompts):
    "Share of the frames whose pelvis is more than a metre high: a step, without a gradient."
    return (motion[:, :, 3] > 1).float().mean(1)
