"""Low-rank updates start as nothing and end as ordinary weights."""

import torch

from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.lora import add_lora, merge_lora
from mocapfree_nb.policy import DiffusionPolicy


def make_policy(prediction="x0", **settings):
    torch.manual_seed(0)
    size = {"width": 32, "layers": 2, "heads": 2, "feedforward": 64, "frames_per_token": 4}
    return DiffusionPolicy(MotionDenoiser(prediction=prediction, **size), **{"steps": 6, **settings})


def test_lora_starts_as_the_base_model_and_merges_into_an_ordinary_one():
    policy = make_policy()
    before = policy.generate(["walks"], [24])
    names = list(policy.denoiser.state_dict())
    add_lora(policy.denoiser, rank=4, alpha=8)
    assert torch.equal(policy.generate(["walks"], [24]), before)
    merge_lora(policy.denoiser)
    assert sorted(policy.denoiser.state_dict()) == sorted(names)
