"""Low-rank updates start as nothing and end as ordinary weights."""

import torch
from small_policy import make_policy

from mocapfree_nb.lora import add_lora, merge_lora


def test_lora_starts_as_the_base_model_and_merges_into_an_ordinary_one():
    policy = make_policy()
    before = policy.generate(["walks"], [24])
    names = list(policy.denoiser.state_dict())
    add_lora(policy.denoiser, rank=4, alpha=8)
    assert torch.equal(policy.generate(["walks"], [24]), before)
    merge_lora(policy.denoiser)
    assert sorted(policy.denoiser.state_dict()) == sorted(names)
