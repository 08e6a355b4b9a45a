"""MDM against outputs of the original code, in single and double precision."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mocapfree_nb.features import length_mask
from mocapfree_nb.files import UserError
from mocapfree_nb.models.blocks import interleaved_sinusoids
from mocapfree_nb.models.mdm import MDM, MDM_NAMES, replace_names
from mocapfree_nb.text import TextEmbedding

REFERENCE = Path(__file__).parent / "reference"
CASES = {  # file: what its constructor arguments are called here
    "mdm": {},
    "mdm_dec_bert": {"arch": "decoder", "text": "tokens", "text_width": 768},
    "mdm_dec_clip": {"arch": "decoder", "time_token": True},
}


@pytest.fixture(scope="module")
def files():
    return {name: dict(np.load(REFERENCE / f"{name}.npz", allow_pickle=False)) for name in CASES}


def build(arrays, name, mask_frames, dtype):
    config = json.loads(str(arrays["config_json"]))
    model = MDM(
        num_features=config["njoints"],
        width=config["latent_dim"],
        layers=config["num_layers"],
        heads=config["num_heads"],
        feedforward=config["ff_size"],
        mask_frames=mask_frames,
        num_timesteps=1000,
        **CASES[name],
    )
    state = {key[3:]: torch.tensor(value) for key, value in arrays.items() if key.startswith("sd/")}
    kept = replace_names({key: value for key, value in state.items() if not key.endswith(".pe")}, MDM_NAMES)
    missing, unexpected = model.load_state_dict(kept, strict=False)
    assert not unexpected and set(missing) == {"feature_mean", "feature_std"}
    return model.to(dtype).eval()


def inputs(arrays, dtype):
    x = torch.tensor(arrays["x"])[:, :, 0].mT.to(dtype)
    if "text_tokens" in arrays:
        tokens, mask = torch.tensor(arrays["text_tokens"]).transpose(0, 1), ~torch.tensor(arrays["text_padding_mask"])
        text = TextEmbedding(tokens.to(dtype), mask, tokens[:, 0].to(dtype))
    else:
        pooled = torch.tensor(arrays["text_embed"])[0].to(dtype)
        text = TextEmbedding(pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool), pooled)
    return x, torch.tensor(arrays["timesteps"]), text, torch.tensor(arrays["lengths"])


def published(array):
    return torch.tensor(array)[:, :, 0].mT


def settings():
    return [("mdm", False), ("mdm", True), ("mdm_dec_bert", True), ("mdm_dec_clip", True)]


def expected(arrays, name, mask_frames, part):
    return published(arrays[f"mask_frames_{str(mask_frames).lower()}/{part}" if name == "mdm" else part])


@pytest.mark.parametrize(("name", "mask_frames"), settings())
@torch.no_grad()
def test_every_answer_equals_the_original(files, name, mask_frames):
    arrays = files[name]
    model = build(arrays, name, mask_frames, torch.float32)
    x, t, text, lengths = inputs(arrays, torch.float32)
    valid = length_mask(lengths, x.shape[1])
    assert torch.equal(valid, torch.tensor(arrays["mask"])[:, 0, 0])
    shown = torch.ones(len(x), dtype=torch.bool)
    cond, uncond = model.answer(x, t, text, valid, shown), model.answer(x, t, text, valid, ~shown)
    guided = uncond + float(arrays["cfg_scale"]) * (cond - uncond)
    for found, part, limit in ((cond, "out_cond", 1e-5), (uncond, "out_uncond", 1e-5), (guided, "out_cfg", 5e-5)):
        assert (found - expected(arrays, name, mask_frames, part)).abs().max() < limit, part  # padded frames too


@pytest.mark.parametrize(("name", "mask_frames"), settings())
@torch.no_grad()
def test_the_denoiser_says_the_same_on_real_frames(files, name, mask_frames):
    "`forward` and `guided` in one pass, with padding zeroed after the network."
    arrays = files[name]
    model = build(arrays, name, mask_frames, torch.float32)
    x, t, text, lengths = inputs(arrays, torch.float32)
    valid = length_mask(lengths, x.shape[1])
    shown = model(x, t, text, lengths)
    hidden = model(x, t, text, lengths, torch.zeros(len(x), dtype=torch.bool))
    guided = model.guided(x, t, text, lengths, float(arrays["cfg_scale"]))
    for found, part, limit in ((shown, "out_cond", 1e-5), (hidden, "out_uncond", 1e-5), (guided, "out_cfg", 5e-5)):
        assert (found - expected(arrays, name, mask_frames, part))[valid].abs().max() < limit, part
        assert not found[~valid].any()


@pytest.mark.parametrize(("name", "mask_frames"), settings())
@torch.no_grad()
def test_in_double_precision(files, name, mask_frames):
    arrays = files[name]
    model = build(arrays, name, mask_frames, torch.float64)
    x, t, text, lengths = inputs(arrays, torch.float64)
    valid = length_mask(lengths, x.shape[1])
    found = model.answer(x, t, text, valid, torch.ones(len(x), dtype=torch.bool))
    assert (found - expected(arrays, name, mask_frames, "out_cond_float64")).abs().max() < 2e-5


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_position_table_is_all_that_double_precision_differs_by(files, name, monkeypatch):
    "Given the file's own table, the answers agree to 1e-9."
    arrays = files[name]
    table = torch.tensor(arrays["sd/sequence_pos_encoder.pe"])[:, 0]
    times = torch.tensor(arrays["pe_at_timesteps"])[:, 0]
    assert torch.equal(table, torch.tensor(arrays["sd/embed_timestep.sequence_pos_encoder.pe"])[:, 0])
    assert (interleaved_sinusoids(torch.arange(len(table)), table.shape[1]) - table).abs().max() < 2e-6
    x, t, text, lengths = inputs(arrays, torch.float64)
    assert (interleaved_sinusoids(t, table.shape[1]) - times).abs().max() < 1e-4  # sines of nearly 1,000 radians

    def stored(positions, width):
        return times if positions is t else table[positions]

    monkeypatch.setattr("mocapfree_nb.models.mdm.interleaved_sinusoids", stored)
    model, valid = build(arrays, name, True, torch.float64), length_mask(lengths, x.shape[1])
    found = model.answer(x, t, text, valid, torch.ones(len(x), dtype=torch.bool))
    assert (found - expected(arrays, name, True, "out_cond_float64")).abs().max() < 1e-9


def test_a_masked_network_does_not_see_padding_and_an_unmasked_one_does(files):
    arrays = files["mdm"]
    x, t, text, lengths = inputs(arrays, torch.float32)
    other = x.clone()
    other[~length_mask(lengths, x.shape[1])] += 1
    for mask_frames in (True, False):
        model = build(arrays, "mdm", mask_frames, torch.float32)
        same = torch.allclose(model(x, t, text, lengths), model(other, t, text, lengths), atol=1e-6)
        assert same is mask_frames
        assert model.canvas == (None if mask_frames else 196)


def test_a_mistake_in_the_settings_is_one_line():
    with pytest.raises(UserError, match="not 'encoder' with text 'tokens'"):
        MDM(arch="encoder", text="tokens")
    with pytest.raises(UserError, match="multiple of twice the heads"):
        MDM(width=50, heads=4)
