"""The 1D UNet: numbers of the published implementation, and padding that leaves no trace at any scale."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mocapfree_nb.features import features_to_joints
from mocapfree_nb.files import WEIGHTS, UserError
from mocapfree_nb.models.registry import load_denoiser
from mocapfree_nb.models.unet import MotionUNet
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.text import TextEmbedding
from mocapfree_nb.validity import body_validity

REFERENCE = np.load(Path(__file__).parent / "reference" / "stablemofusion_small.npz", allow_pickle=False)
SMALL = {"num_features": 11, "channels": (16, 24), "time_width": 8, "text_latent": 16, "text_heads": 2}
SMALL |= {"text_feedforward": 24, "text_width": 12}


def array(name: str) -> torch.Tensor:
    return torch.from_numpy(REFERENCE[name])


def published_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    "The published names to ours: shorter where a module had one part only, attention in three maps."
    shorter = {".cross_attention.": ".", ".group_norm.": ".norm.", ".out_proj.": ".out.", ".2.conv.": ".2."}
    shorter |= {".0.conv.": ".0.", "textTransEncoder.layers.": "text_blocks.", "unet.time_mlp.1.": "unet.time_mlp.0."}
    shorter |= {"unet.time_mlp.3.": "unet.time_mlp.2."}
    ours = {}
    for name, value in weights.items():
        for old, new in shorter.items():
            name = name.replace(old, new)
        if ".in_proj_" in name:
            for part, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                ours[name.replace("in_proj_", f"{part}.")] = chunk
        else:
            ours[name] = value
    return ours


def published(full_attention: bool) -> MotionUNet:
    config = json.loads(str(REFERENCE["config_json"]))
    model = MotionUNet(
        num_features=config["input_feats"],
        channels=[config["base_dim"] * multiple for multiple in config["dim_mults"]],
        time_width=config["time_dim"],
        text_latent=config["text_latent_dim"],
        text_layers=config["num_text_layers"],
        text_heads=config["text_num_heads"],
        text_feedforward=config["text_ff_size"],
        full_attention=full_attention,
        text_width=config["clip_dim"],
        num_timesteps=1000,
    )
    weights = {name[3:]: array(name) for name in REFERENCE.files if name.startswith("sd/")}
    missing, unexpected = model.load_state_dict(published_names(weights), strict=False)
    assert not unexpected and set(missing) == {"feature_mean", "feature_std"}
    return model.eval()


@pytest.mark.parametrize("attention", ["linear_attention", "full_attention"])
@torch.no_grad()
def test_the_unet_equals_the_reference(attention):
    model, tokens = published(attention == "full_attention"), array("clip_tokens").transpose(0, 1)
    text = TextEmbedding(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), tokens.mean(1))
    torch.testing.assert_close(model.read(text), array("enc_text"), atol=2e-5, rtol=0)
    x, t = array("x"), array("timesteps")
    lengths, hidden = torch.full((len(x),), x.shape[1]), torch.zeros(len(x), dtype=torch.bool)
    for found, expected in (
        (model(x, t, text, lengths), "out_cond"),
        (model(x, t, text, lengths, hidden), "out_uncond"),
        (model.guided(x, t, text, lengths, float(REFERENCE["cfg_scale"])), "out_cfg"),
    ):
        torch.testing.assert_close(found, array(f"{attention}/{expected}"), atol=1e-4, rtol=0)


def build(**changes) -> MotionUNet:
    torch.manual_seed(0)
    model = MotionUNet(**SMALL | changes).eval().double()
    for parameter in model.parameters():  # nothing is zero, as it would be at the start
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def inputs(frames: int = 39):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, frames, 11, generator=generator, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [3], [4]])
    tokens = torch.randn(3, 5, 12, generator=generator, dtype=torch.float64) * mask[..., None]
    return x, torch.tensor([3, 40, 0]), TextEmbedding(tokens, mask, tokens.sum(1)), torch.tensor([frames, 9, 17])


@pytest.mark.parametrize("full_attention", [False, True])
@torch.no_grad()
def test_padding_and_company_leave_no_trace(full_attention):
    model, (x, t, text, lengths) = build(full_attention=full_attention), inputs()
    out, padded = model(x, t, text, lengths), (torch.arange(39) >= lengths[:, None])[..., None]
    assert not out[padded.squeeze(-1)].any()
    for junk in (1e6, float("nan")):
        assert torch.equal(model(x.masked_fill(padded, junk), t, text, lengths), out)
    for row in range(3):
        own = x[[row], : lengths[row]]
        torch.testing.assert_close(model(own, t[[row]], text[row], lengths[[row]])[0], out[row, : lengths[row]])
    longer = model(nn.functional.pad(x, (0, 0, 0, 30), value=7.0), t, text, lengths)
    torch.testing.assert_close(longer[:, :39], out)


@pytest.mark.parametrize("full_attention", [False, True])
@torch.no_grad()
def test_masked_words_and_hidden_captions_leave_no_trace(full_attention):
    model, (x, t, text, lengths) = build(full_attention=full_attention), inputs()
    out = model(x, t, text, lengths)
    more = TextEmbedding(
        nn.functional.pad(text.tokens, (0, 0, 0, 2), value=5.0), nn.functional.pad(text.mask, (0, 2)), text.pooled
    )
    torch.testing.assert_close(model(x, t, more, lengths), out)
    hidden, other = torch.zeros(3, dtype=torch.bool), text[[1, 2, 0]]
    torch.testing.assert_close(model(x, t, text, lengths, hidden), model(x, t, other, lengths, hidden))
    assert (model(x, t, other, lengths) - out).abs().max() > 1e-3


def test_impossible_channels_are_refused():
    for channels in ((), (8, 8, 8, 8, 8), (12,)):
        with pytest.raises(UserError, match="one to four multiples of 8"):
            MotionUNet(**SMALL | {"channels": channels})


def test_a_rigid_unet_hands_out_whole_bodies_learns_what_it_predicts_and_stays_rigid(tmp_path):
    torch.manual_seed(0)
    model = MotionUNet(**SMALL | {"num_features": 263, "text_width": 384}, rigid=True)
    state, lengths = torch.randn(2, 24, 263), torch.tensor([24, 9])
    predicted, handed = model.decode(state, lengths), DiffusionPolicy(model).to_raw(state, lengths)
    free, whole = (body_validity(features_to_joints(motion), lengths)["bone_deviation"] for motion in (predicted, handed))
    assert (free > 0.05).all() and (whole < 1e-5).all() and not handed[1, 9:].any()
    model.save_pretrained(tmp_path)
    assert MotionUNet.from_folder(tmp_path).rigid and not MotionUNet(**SMALL).rigid


@pytest.mark.parametrize("folder", ["unet", "unet-leave-one-out", "latent", "latent-leave-one-out"])
def test_the_shipped_networks_that_are_rigid_say_so(folder):
    assert load_denoiser(WEIGHTS / folder).rigid
