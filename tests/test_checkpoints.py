"""Published checkpoints: read into our classes with the original outputs, every array accounted for, nothing executed."""

import json
import os
import pickle
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

from mocapfree_nb.cli import app
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.lora import add_lora
from mocapfree_nb.models.latent import LatentDenoiser
from mocapfree_nb.models.mdm import MDM
from mocapfree_nb.models.unet import MotionUNet
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.published.checkpoints import (
    convert,
    find_statistics,
    from_checkpoint,
    read_checkpoint,
    read_tensors,
    text_encoder_for,
)
from mocapfree_nb.published.encoders import TMR, GuoEvaluator
from mocapfree_nb.rewards import RetrievalReward
from mocapfree_nb.text import TextEmbedding

REFERENCE = Path(__file__).parent / "reference"


def arrays(name):
    return dict(np.load(REFERENCE / f"{name}.npz", allow_pickle=False))


def weights(found, prefix="sd/"):
    return {name[len(prefix) :]: torch.tensor(value) for name, value in found.items() if name.startswith(prefix)}


def whole_text(vectors):
    "Vectors (batch, words, width) as text all of whose words count; the pooled one is the first."
    return TextEmbedding(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool), vectors[:, 0])


def statistics(folder, count=263):
    np.save(folder / "Mean.npy", np.linspace(-1, 1, count).astype(np.float32))
    np.save(folder / "Std.npy", np.linspace(0.5, 2, count).astype(np.float32))


# --- what each release looks like on disk


def mdm_release(folder, name="mdm"):
    found = arrays(name)
    state = weights(found) | {"clip_model.positional_embedding": torch.zeros(3)}
    if name == "mdm":  # the old layout: bare weights beside args.json
        torch.save(state, folder / "model000475000.pt")
        (folder / "args.json").write_text(json.dumps({"diffusion_steps": 1000, "noise_schedule": "cosine"}))
    else:  # the new one: weights and their average
        junk = {key: torch.zeros_like(value) for key, value in state.items()}
        torch.save({"model": junk, "model_avg": state}, folder / "model000750000.pt")
        beside = {"diffusion_steps": 50, "mask_frames": True, "emb_trans_dec": name == "mdm_dec_clip"}
        (folder / "args.json").write_text(json.dumps(beside))
    return folder


def tmr_release(folder, parts=True):
    state = weights(arrays("tmr"))
    if parts:
        (folder / "last_weights").mkdir()
        for part in ("motion_encoder", "text_encoder", "motion_decoder"):
            own = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
            torch.save(own, folder / "last_weights" / f"{part}.pt")
    else:
        torch.save({"epoch": 3, "state_dict": state, "optimizer_states": [{"state": {0: torch.ones(2)}}]}, folder / "last.ckpt")
    return folder


def guo_release(folder):
    found = arrays("guo_evaluator")
    parts = {part: weights(found, f"{part}/sd/") for part in ("movement_encoder", "motion_encoder", "text_encoder")}
    adam = {"state": {0: {"exp_avg": torch.zeros(4)}}}
    place = folder / "text_mot_match" / "model"
    place.mkdir(parents=True)
    torch.save({**parts, "opt_text_encoder": adam, "epoch": 86, "iter": 1}, place / "finest.tar")
    meta = folder / "Comp_v6_KLD01" / "meta"
    meta.mkdir(parents=True)
    statistics(meta)
    for name in ("Mean", "Std"):
        (meta / f"{name}.npy").rename(meta / f"{name.lower()}.npy")
    return folder


def mld_release(folder):
    found = arrays("mld_small")
    state = {}
    for part in ("vae", "denoiser"):
        state |= {f"{part}.{name}": value for name, value in weights(found, f"{part}/sd/").items()}
    state |= {"text_encoder.text_model.logit_scale": torch.ones(()), "t2m_textencoder.hidden": torch.ones(2)}
    torch.save({"state_dict": state, "hyper_parameters": Foreign()}, folder / "epoch=1.ckpt")
    return folder


def stablemofusion_release(folder):
    state = weights(arrays("stablemofusion_small"))
    average = {f"module.{name}": value for name, value in state.items()} | {"n_averaged": torch.tensor(7)}
    (folder / "model").mkdir()
    current = {name: value + 1 for name, value in state.items()}
    torch.save({"encoder": current, "model_ema": average, "total_it": 9}, folder / "model/latest.tar")
    lines = ["-- Options --", "beta_schedule: linear", "no_eff: False", "prediction_type: sample", "diffusion_steps: 1000"]
    (folder / "opt.txt").write_text("\n".join(lines))
    return folder


class Foreign:
    "An object of a training framework; its class lives here, so reading it must not import anything."

    def __init__(self):
        self.settings = {"lr": 1e-4}


# --- outputs


@torch.no_grad()
def check_mdm(model, name):
    found = arrays(name)
    if name == "mdm_dec_bert":
        text = whole_text(torch.tensor(found["text_tokens"]).transpose(0, 1))
        text = TextEmbedding(text.tokens, ~torch.tensor(found["text_padding_mask"]), text.pooled)
    else:
        text = whole_text(torch.tensor(found["text_embed"])[0][:, None])
    x, t = torch.tensor(found["x"])[:, :, 0].mT, torch.tensor(found["timesteps"])
    lengths = torch.tensor(found["lengths"])
    part = "mask_frames_false/" if name == "mdm" else ""
    real = torch.tensor(found["mask"])[:, 0, 0]
    hidden = torch.zeros(len(x), dtype=torch.bool)
    for output, expected in (
        (model(x, t, text, lengths), "out_cond"),
        (model(x, t, text, lengths, hidden), "out_uncond"),
        (model.guided(x, t, text, lengths, 2.5), "out_cfg"),
    ):
        limit = 5e-5 if expected == "out_cfg" else 1e-5
        assert (output - torch.tensor(found[part + expected])[:, :, 0].mT)[real].abs().max() < limit


@torch.no_grad()
def check_tmr(model, _):
    found = arrays("tmr")
    text = torch.tensor(found["text/x"])
    text = TextEmbedding(text, torch.tensor(found["text/mask"]), text[:, 0])
    raw = torch.tensor(found["motion/x"]) * model.feature_std + model.feature_mean
    assert (model.encode_motion(raw, torch.tensor(found["motion/lengths"])) - torch.tensor(found["motion/mu"])).abs().max() < 2e-5
    assert (model.encode_text(text) - torch.tensor(found["text/mu"])).abs().max() < 1e-5


@torch.no_grad()
def check_guo(model, _):
    found = arrays("guo_evaluator")
    movements = model.movement_encoder(torch.tensor(found["motions"])[..., :-4])
    assert (movements - torch.tensor(found["movements"])).abs().max() < 1e-5
    lengths = torch.tensor(found["m_lens"]) // 4
    assert (model.motion_encoder(movements, lengths) - torch.tensor(found["motion_embedding"])).abs().max() < 1e-5


@torch.no_grad()
def check_mld(model, _):
    found = arrays("mld_small")
    model.denoiser.no_caption.copy_(torch.tensor(found["denoiser/text_uncond"])[0, 0])
    x, text = torch.tensor(found["denoiser/sample"]), whole_text(torch.tensor(found["denoiser/text"]))
    lengths, hidden = torch.tensor(found["vae/lengths"]), torch.zeros(len(x), dtype=torch.bool)
    for i, step in enumerate(found["denoiser/timesteps"]):
        t = torch.full((len(x),), int(step))
        for output, expected in (
            (model(x, t, text, lengths), "out"),
            (model(x, t, text, lengths, hidden), "out_uncond"),
            (model.guided(x, t, text, lengths, 7.5), "out_cfg"),
        ):
            limit = 5e-5 if expected == "out_cfg" else 1e-5
            assert (output - torch.tensor(found[f"denoiser/{expected}"])[i]).abs().max() < limit
    raw = model.decode(torch.tensor(found["vae/z"]).transpose(0, 1), lengths)
    real = torch.tensor(found["vae/mask"])
    expected = torch.tensor(found["vae/decoded"]) * model.feature_std + model.feature_mean
    assert (raw - expected)[real].abs().max() < 5e-5


@torch.no_grad()
def check_stablemofusion(model, _):
    found = arrays("stablemofusion_small")
    x, t, text = torch.tensor(found["x"]), torch.tensor(found["timesteps"]), torch.tensor(found["clip_tokens"])
    text, lengths = whole_text(text.transpose(0, 1)), torch.full((len(x),), x.shape[1])
    hidden = torch.zeros(len(x), dtype=torch.bool)
    for output, expected in (
        (model(x, t, text, lengths), "out_cond"),
        (model(x, t, text, lengths, hidden), "out_uncond"),
        (model.guided(x, t, text, lengths, 2.5), "out_cfg"),
    ):
        limit = 1e-4 if expected == "out_cfg" else 5e-5
        assert (output - torch.tensor(found[f"linear_attention/{expected}"])).abs().max() < limit


RELEASES = {
    "mdm": (mdm_release, MDM, check_mdm, 1000),
    "mdm_dec_bert": (lambda folder: mdm_release(folder, "mdm_dec_bert"), MDM, check_mdm, 50),
    "mdm_dec_clip": (lambda folder: mdm_release(folder, "mdm_dec_clip"), MDM, check_mdm, 50),
    "tmr": (tmr_release, TMR, check_tmr, None),
    "tmr_lightning": (lambda folder: tmr_release(folder, parts=False), TMR, check_tmr, None),
    "guo_evaluator": (guo_release, GuoEvaluator, check_guo, None),
    "mld": (mld_release, LatentDenoiser, check_mld, 1000),
    "stablemofusion": (stablemofusion_release, MotionUNet, check_stablemofusion, 1000),
}


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_is_recognised_and_says_what_the_original_said(tmp_path, name):
    make, network, check, timesteps = RELEASES[name]
    make(tmp_path)
    if name != "guo_evaluator":
        statistics(tmp_path)
    model = from_checkpoint(tmp_path)
    assert type(model) is network and not model.training
    assert torch.allclose(model.feature_std, torch.linspace(0.5, 2, 263))
    if timesteps:
        assert model.noise_schedule.num_timesteps == timesteps
    check(model, name)
    report = convert(tmp_path, tmp_path / "ours")
    assert "every array in its place" in report.splitlines()[0]
    shutil.rmtree(tmp_path / "last_weights", ignore_errors=True)
    again = from_checkpoint(tmp_path / "ours")
    assert type(again) is network and torch.equal(again.feature_std, model.feature_std)
    same = network.from_folder(tmp_path / "ours")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in same.state_dict().items())
    check(again, name)
    saved = {path.name for path in (tmp_path / "ours").iterdir()}
    assert {"config.json", "model.safetensors"} <= saved


def test_the_average_is_taken_where_there_is_one(tmp_path):
    state = weights(arrays("mdm"))
    torch.save({"model": {key: value + 1 for key, value in state.items()}, "model_avg": state}, tmp_path / "model.pt")
    statistics(tmp_path)
    check_mdm(from_checkpoint(tmp_path), "mdm")


def test_safetensors_and_the_old_torch_format_are_read_alike(tmp_path):
    state = {name: value.clone() for name, value in weights(arrays("mdm")).items()}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pt"):
        found = read_tensors(tmp_path / name)
        assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def test_what_was_not_needed_is_reported(tmp_path):
    mdm_release(tmp_path)
    found = read_checkpoint(tmp_path)
    assert sorted(found.unneeded) == [
        "clip_model.positional_embedding",
        "embed_timestep.sequence_pos_encoder.pe",
        "sequence_pos_encoder.pe",
    ]
    assert "not needed: 3 arrays" in found.report() and "none found; give --statistics" in found.report()
    with pytest.warns(UserWarning, match="no mean and deviation near it"):
        from_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("embed_text.bias"), "1 missing: text_in.bias"),
        (lambda s: s.update({"extra.weight": torch.zeros(2)}), "1 left over: extra.weight"),
        (lambda s: s.update({"output_process.poseFinal.bias": torch.zeros(251)}), r"frames_out.bias \(251,\), not \(263,\)"),
        (lambda s: s["embed_text.bias"].fill_(float("nan")), "text_in.bias holds NaN"),
        (lambda s: s.pop("seqTransEncoder.layers.1.norm2.bias"), "1 missing: blocks.1.norm2.bias"),
        (lambda s: s.pop("input_process.poseEmbedding.weight"), "not a model that is known here"),
        (lambda s: s.pop("seqTransEncoder.layers.0.linear1.weight"), "its arrays do not fit together"),
    ],
)
def test_every_fault_is_one_line_that_names_it(tmp_path, damage, message):
    state = weights(arrays("mdm"))
    damage(state)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(UserError, match=message) as caught:
        from_checkpoint(tmp_path / "model.pt")
    assert "\n" not in str(caught.value)


def test_settings_are_checked(tmp_path):
    mdm_release(tmp_path)
    assert read_checkpoint(tmp_path, heads=8, num_timesteps=100).model.noise_schedule.num_timesteps == 100
    for wrong, message in (({"head": 8}, "has no setting 'head'"), ({"heads": 7}, "multiple of twice the heads")):
        with pytest.raises(UserError, match=message):
            read_checkpoint(tmp_path, **wrong)
    (tmp_path / "args.json").write_text('{"diffusion_steps": 1e12}')
    with pytest.raises(UserError, match="out of range"):
        read_checkpoint(tmp_path)
    (tmp_path / "args.json").write_text('{"diffusion_steps": "many"}')
    with pytest.raises(UserError, match="num_timesteps is 'many' .str.; int is expected"):
        read_checkpoint(tmp_path)


def test_folders_that_do_not_say_which_file(tmp_path):
    with pytest.raises(UserError, match=r"holds 0 \(none\)"):
        from_checkpoint(tmp_path)
    for name in ("a.pt", "b.pt"):
        torch.save({"w": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(UserError, match=r"holds 2 \(a.pt, b.pt\); name the file"):
        from_checkpoint(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        from_checkpoint(tmp_path / "missing.pt")


def test_statistics_of_another_skeleton_or_no_use_are_refused(tmp_path):
    mdm_release(tmp_path)
    statistics(tmp_path, 251)
    with pytest.raises(UserError, match="should be 263 numbers each"):
        from_checkpoint(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UserError, match="holds no mean and deviation"):
        from_checkpoint(tmp_path, statistics=other)
    np.save(other / "t2m_mean.npy", np.zeros(263, np.float32))
    np.save(other / "t2m_std.npy", np.ones(263, np.float32))
    assert find_statistics(other, 263)[2].name == "t2m_mean.npy" and find_statistics(other, 251) is None
    for name, value in (("mean", torch.zeros(263)), ("std", torch.full((263,), 3.0))):
        torch.save(value, tmp_path / "other" / f"{name}.pt")
    assert from_checkpoint(tmp_path, statistics=other).feature_std[0] == 3
    torch.save(Program(tmp_path / "ran"), other / "mean.pt")
    with pytest.raises(UserError, match="no tensor that can be read safely"):
        from_checkpoint(tmp_path, statistics=other)
    assert not (tmp_path / "ran").exists()


# --- our own folders


def test_our_own_folders_are_recognised(tmp_path):
    for i, model in enumerate((MotionDenoiser(width=16, layers=1, feedforward=16), MotionUNet(channels=(8,), text_layers=1))):
        model.set_statistics(torch.zeros(263), torch.full((263,), 2.0))
        model.half().save_pretrained(tmp_path / str(i))
        assert type(from_checkpoint(tmp_path / str(i))) is type(model)


def test_a_config_that_lies_is_refused(tmp_path):
    MotionDenoiser(width=16, layers=1, feedforward=16).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"layers": 10**9}, "out of range"),
        ({"layers": 2}, "of no network of this kit"),
        ({"width": "wide"}, "width is 'wide' .str.; int is expected"),
        ({"colour": 1}, "of no network of this kit"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=message):
            from_checkpoint(tmp_path)


# --- nothing runs


class Program:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Builtin:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return eval, (f"__import__('os').mkdir({self.path!r})",)


class ThirdParty:
    "Asks for a module that would leave a mark when imported."

    def __reduce__(self):
        return TripWire, ()


class TripWire:
    pass


@pytest.mark.parametrize("program", [Program, Builtin])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_program_in_a_checkpoint_does_not_run(tmp_path, program, new_format):
    state = weights(arrays("mdm")) | {"settings": program(tmp_path / "ran")}
    torch.save(state, tmp_path / "model.pt", _use_new_zipfile_serialization=new_format)
    try:
        model = read_checkpoint(tmp_path / "model.pt").model  # read past it ...
        assert isinstance(model, MDM)
    except UserError as error:  # ... or refuse it
        assert "not run" in str(error) or "read safely" in str(error)
    assert not (tmp_path / "ran").exists()


def test_foreign_classes_are_neither_imported_nor_called(tmp_path, monkeypatch):
    (tmp_path / "bad_framework.py").write_text(f"import os; os.mkdir({str(tmp_path / 'imported')!r})\nclass Config: pass\n")
    content = pickle.dumps({"state_dict": 1, "hparams": TripWire()}, protocol=2)
    content = content.replace(TripWire.__module__.encode() + b"\nTripWire", b"bad_framework\nConfig")
    torch.save({"state_dict": weights(arrays("tmr"))}, tmp_path / "plain.ckpt")
    with zipfile.ZipFile(tmp_path / "plain.ckpt") as archive:
        root = archive.namelist()[0].split("/")[0]
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "evil.ckpt", "w") as archive:
        for name, value in parts.items():
            archive.writestr(name, content if name == f"{root}/data.pkl" else value)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="holds no tensors"):
        read_tensors(tmp_path / "evil.ckpt")
    assert not (tmp_path / "imported").exists()


def test_archives_that_unfold_and_tensors_that_lie_are_refused(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as archive, zipfile.ZipFile(
        tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED
    ) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with pytest.raises(UserError, match="compressed archive"):
        read_tensors(tmp_path / "packed.pt")
    torch.save({"w": torch.zeros(1).expand(10**6, 10**5)}, tmp_path / "stride.pt")
    with pytest.raises(UserError, match="more than the file holds"):
        read_tensors(tmp_path / "stride.pt")
    state = weights(arrays("mdm"))
    state["seqTransEncoder.layers.0.linear1.weight"] = torch.zeros(90_000, 1)
    torch.save(state, tmp_path / "wide.pt")
    with pytest.raises(UserError, match="of another shape"):  # found before anything of that width is built
        read_checkpoint(tmp_path / "wide.pt")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    "Valid files to damage: both torch formats, safetensors, config.json, args.json."
    folder = tmp_path_factory.mktemp("seeds")
    state = {"input_process.poseEmbedding.weight": torch.ones(4, 3), "embed_text.weight": torch.ones(4, 5)}
    state["output_process.poseFinal.weight"] = torch.ones(3, 4)
    torch.save(state, folder / "a.pt")
    torch.save(state, folder / "b.pt", _use_new_zipfile_serialization=False)
    save_file(state, folder / "c.safetensors")
    MotionDenoiser(num_features=3, width=4, layers=1, heads=2, feedforward=4, text_width=5).save_pretrained(folder / "own")
    return {path.name: path.read_bytes() for path in [*folder.glob("*.*"), *(folder / "own").glob("*")] if path.is_file()}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_crash_run_or_hang(seeds, tmp_path_factory, data):
    "Random bytes, and valid files with bytes changed, cut or put in."
    name = data.draw(st.sampled_from(["a.pt", "b.pt", "c.safetensors", "own/config.json", "own/model.safetensors", "args.json"]))
    base = seeds.get(Path(name).name, b'{"diffusion_steps": 10, "mask_frames": false}')
    content = bytearray(base if data.draw(st.integers(0, 4)) else b"")
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(content)))
        width = data.draw(st.sampled_from([0, 1, 1, 8, 200]))
        content[at : at + width] = data.draw(st.binary(max_size=12))
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "own").mkdir()
    for other in ("config.json", "model.safetensors"):
        (folder / "own" / other).write_bytes(seeds[other])
    (folder / "a.pt").write_bytes(seeds["a.pt"])
    (folder / name).write_bytes(bytes(content))
    target = folder / "own" if name.startswith("own") else folder / ("a.pt" if name == "args.json" else name)
    outcome = []

    def read():
        try:
            outcome.append(read_checkpoint(target).report())
        except UserError as error:
            outcome.append(str(error))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert outcome, "it hangs"
    assert isinstance(outcome[0], str), repr(outcome[0])
    shutil.rmtree(folder)


# --- where the networks go


def read(prompts):
    generator = torch.Generator().manual_seed(len(prompts))
    return whole_text(torch.randn(len(prompts), 1, 512, generator=generator))


def test_a_published_denoiser_is_a_policy_that_can_be_adapted(tmp_path):
    mdm_release(tmp_path)
    statistics(tmp_path)
    model = from_checkpoint(tmp_path, mask_frames=True)
    policy = DiffusionPolicy(model, read, steps=4)
    walk = policy.rollout(["a person waves", "a person bows"], [20, 13], torch.Generator().manual_seed(0))
    assert torch.allclose(policy.log_prob(walk), walk.log_probs, atol=1e-6)
    before = policy.log_prob(walk).detach()
    parameters = add_lora(model, rank=2, alpha=4.0)
    assert len(parameters) > 20
    policy.log_prob(walk).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
    assert torch.allclose(policy.log_prob(walk), before, atol=1e-5)  # LoRA begins as no change


def test_a_published_tmr_is_a_reward(tmp_path):
    tmr_release(tmp_path)
    statistics(tmp_path)
    model, found = from_checkpoint(tmp_path), arrays("tmr")
    text = torch.tensor(found["text/x"])
    text = TextEmbedding(text, torch.tensor(found["text/mask"]), text[:, 0])
    prompts = ["zero", "one", "two", "three"]
    reward = RetrievalReward(model, lambda new: text[[prompts.index(prompt) for prompt in new]])
    raw = torch.tensor(found["motion/x"]) * model.feature_std + model.feature_mean
    scores = reward(raw, torch.tensor(found["motion/lengths"]), prompts)
    assert torch.allclose(scores, torch.tensor(found["score_matrix"]).diagonal(), atol=1e-5)


def test_each_network_gets_the_text_it_was_trained_with(tmp_path, monkeypatch):
    kinds = {}
    for name in ("mdm", "mdm_dec_bert", "tmr", "mld"):
        (tmp_path / name).mkdir()
        model = read_checkpoint(RELEASES[name][0](tmp_path / name)).model
        if name == "mld":
            vector = torch.arange(768.0)
            monkeypatch.setattr(
                "mocapfree_nb.text.PublishedTextEncoder.empty", lambda self, v=vector: whole_text(v[None, None])
            )
        encoder = text_encoder_for(model, "somewhere")
        kinds[name] = (encoder.kind, encoder.max_tokens, encoder.name)
    assert kinds["mdm"] == ("clip", 22, "somewhere") and kinds["mdm_dec_bert"][0] == "distilbert"
    assert kinds["tmr"][0] == "distilbert" and kinds["mld"][0] == "clip-large"
    assert torch.equal(model.denoiser.no_caption, torch.arange(768.0))


# --- the command


def test_the_command_converts_and_says_what_it_read(tmp_path):
    mdm_release(tmp_path)
    statistics(tmp_path)
    done = CliRunner().invoke(app, ["checkpoint", str(tmp_path), "--out", str(tmp_path / "ours")])
    assert done.exit_code == 0, done.output
    assert "MDM: MDM, 0.14 million weights" in done.output and (tmp_path / "ours" / "model.safetensors").is_file()
    shown = CliRunner().invoke(app, ["checkpoint", str(tmp_path / "ours")])
    assert shown.exit_code == 0 and "0.14 million" in shown.output
    failed = CliRunner().invoke(app, ["checkpoint", str(tmp_path / "nowhere.pt")])
    assert isinstance(failed.exception, UserError)
