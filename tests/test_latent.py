"""The latent model: numbers of the published implementation, and what a change of state must not disturb."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.features import features_to_joints
from mocapfree_nb.files import UserError
from mocapfree_nb.models.latent import LatentDenoiser, kl_to_standard_normal
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.schedule import NoiseSchedule
from mocapfree_nb.solvers import find_solver
from mocapfree_nb.text import TextEmbedding
from mocapfree_nb.validity import body_validity

MLD = np.load(Path(__file__).parent / "reference" / "mld_small.npz", allow_pickle=False)
SMALL = {"num_features": 11, "latent_tokens": 2, "width": 16, "layers": 3, "heads": 2, "feedforward": 24}
SMALL |= {"text_width": 12, "positions": 32, "frames_per_token": 2}


def array(name: str) -> torch.Tensor:
    return torch.from_numpy(MLD[name])


def split_projections(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    "PyTorch's packed attention weights to ours: three maps instead of one, and another name for the last."
    ours = {}
    for name, value in weights.items():
        if ".in_proj_" in name:
            for part, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                ours[name.replace("in_proj_", f"{part}.")] = chunk
        else:
            ours[name.replace(".out_proj.", ".out.")] = value
    return ours


@pytest.fixture(scope="module")
def published() -> LatentDenoiser:
    "Our classes with the reference's weights."
    config = json.loads(str(MLD["denoiser/config_json"]))
    tokens, width = config["latent_dim"]
    model = LatentDenoiser(
        num_features=config["nfeats"],
        latent_tokens=tokens,
        width=width,
        layers=config["num_layers"],
        heads=config["num_heads"],
        feedforward=config["ff_size"],
        vae_layers=json.loads(str(MLD["vae/config_json"]))["num_layers"],
        text_width=config["text_encoded_dim"],
        words=False,
        frames_per_token=1,
        positions=64,
        prediction="noise",
        num_timesteps=1000,
        schedule="scaled_linear",
    )
    weights = {}
    for name in MLD.files:
        part, _, rest = name.partition("/sd/")
        if rest:
            weights[f"{part}.{rest}"] = array(name)
    weights = split_projections(weights)
    weights["denoiser.no_caption"] = array("denoiser/text_uncond")[0, 0]
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) == {"feature_mean", "feature_std", "latent_mean", "latent_std", "vae_signature"}
    return model.eval()


def caption() -> TextEmbedding:
    pooled = array("denoiser/text")[:, 0]
    return TextEmbedding(pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool), pooled)


@torch.no_grad()
def test_the_vae_equals_the_reference(published):
    lengths = array("vae/lengths")
    mean, log_variance = published.vae.encode(array("vae/features"), lengths)
    torch.testing.assert_close(mean.transpose(0, 1), array("vae/mean"), atol=2e-5, rtol=0)
    torch.testing.assert_close(log_variance.transpose(0, 1), array("vae/logvar"), atol=2e-5, rtol=0)
    decoded = published.vae.decode(array("vae/z").transpose(0, 1), lengths)
    torch.testing.assert_close(decoded, array("vae/decoded"), atol=2e-5, rtol=0)
    again = published.vae.decode(mean, lengths)
    torch.testing.assert_close(again, array("vae/decoded_from_mean"), atol=2e-5, rtol=0)
    state = published.encode(array("vae/features"), lengths)  # the statistics are those of standard normals here
    torch.testing.assert_close(state, mean)
    torch.testing.assert_close(published.decode(state, lengths), again)


@torch.no_grad()
def test_the_latent_network_equals_the_reference(published):
    x, lengths = array("denoiser/sample"), array("vae/lengths")
    hidden = torch.zeros(len(x), dtype=torch.bool)
    for i, t in enumerate(array("denoiser/timesteps")):
        t = t.expand(len(x))
        for found, expected, near in (
            (published(x, t, caption(), lengths), "out", 2e-5),
            (published(x, t, caption(), lengths, hidden), "out_uncond", 2e-5),
            (published.guided(x, t, caption(), lengths, float(MLD["denoiser/guidance_scale"])), "out_cfg", 5e-5),
        ):
            torch.testing.assert_close(found, array(f"denoiser/{expected}")[i], atol=near, rtol=0)


@torch.no_grad()
def test_the_whole_pipeline_equals_the_reference(published):
    "DDIM without noise, guided, in latent space; then decoded. The reference ends at alpha-bar of timestep 0, not 1."
    from mocapfree_nb.solvers import ddim_distribution

    kept = array("pipeline/alphas_cumprod").double()
    torch.testing.assert_close(kept, published.noise_schedule.alphas_cumprod, atol=1e-6, rtol=3e-5)
    stops, x = array("pipeline/timesteps").tolist(), array("pipeline/latents")[0]
    for i, t in enumerate(stops):
        time = torch.full((len(x),), t)
        output = published.guided(x, time, caption(), array("vae/lengths"), 7.5)
        alpha, after = kept[t], kept[stops[i + 1]] if i + 1 < len(stops) else kept[0]
        x0 = (x - (1 - alpha).sqrt().float() * output) / alpha.sqrt().float()
        x, _ = ddim_distribution(x0, output, alpha, after, eta=find_solver("dpmsolver++")[1])
        torch.testing.assert_close(x, array("pipeline/latents")[i + 1], atol=5e-4, rtol=1e-4)
    motion = published.decode(x, array("vae/lengths"))
    torch.testing.assert_close(motion, array("pipeline/motion"), atol=5e-4, rtol=1e-4)


def build(**changes) -> LatentDenoiser:
    torch.manual_seed(0)
    model = LatentDenoiser(**SMALL | changes).eval().double()
    model.set_statistics(torch.arange(11.0), torch.linspace(0.5, 2, 11))
    return model


@pytest.mark.parametrize("group", [1, 2, 3])
@torch.no_grad()
def test_padding_and_company_leave_no_trace_in_a_latent(group):
    model = build(frames_per_token=group)
    motion, lengths = torch.randn(3, 9, 11).double(), torch.tensor([9, 4, 7])
    state = model.encode(motion, lengths)
    assert state.shape == (3, 2, 16) and model.state_lengths(lengths).tolist() == [2, 2, 2]
    corrupted = motion.masked_fill((torch.arange(9) >= lengths[:, None])[..., None], float("nan"))
    torch.testing.assert_close(model.encode(corrupted, lengths), state)
    alone = model.encode(motion[1:2, :4], lengths[1:2])
    torch.testing.assert_close(alone[0], state[1])
    decoded = model.decode(state, lengths)
    assert decoded.shape == motion.shape and not decoded[1, 4:].any() and not decoded[2, 7:].any()
    torch.testing.assert_close(model.decode(state[1:2], lengths[1:2])[0], decoded[1, :4])


@torch.no_grad()
def test_a_hidden_caption_leaves_no_trace():
    model, x, t = build(), torch.randn(2, 2, 16).double(), torch.tensor([3, 40])
    hidden, lengths = torch.zeros(2, dtype=torch.bool), torch.tensor([9, 5])
    made = [torch.randn(2, 4, 12).double() for _ in range(2)]
    texts = [TextEmbedding(tokens, torch.ones(2, 4, dtype=torch.bool), tokens.mean(1)) for tokens in made]
    outputs = [model(x, t, text, lengths, hidden) for text in texts]
    torch.testing.assert_close(outputs[0], outputs[1])
    assert (model(x, t, texts[0], lengths) - model(x, t, texts[1], lengths)).abs().max() > 1e-3


def test_kl_equals_torchs():
    mean, log_variance = torch.randn(2, 5, 7).double()
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (0.5 * log_variance).exp()), normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)


def test_what_adapts_is_the_network_and_never_the_vae():
    from mocapfree_nb.lora import add_lora, merge_lora

    model = build()
    before = {name: value.clone() for name, value in model.vae.state_dict().items()}
    trained = add_lora(model.network, rank=2, alpha=4.0)
    inside = {id(p) for p in model.denoiser.parameters()}
    assert trained and all(id(p) in inside for p in trained)
    merge_lora(model)
    assert all(torch.equal(value, before[name]) for name, value in model.vae.state_dict().items())


def test_a_rigid_model_hands_out_whole_bodies_and_its_losses_see_what_was_decoded():
    torch.manual_seed(0)
    model = LatentDenoiser(**SMALL | {"num_features": 263, "text_width": 384}, rigid=True)
    policy, state, lengths = DiffusionPolicy(model), torch.randn(3, 2, 16, requires_grad=True), torch.tensor([20, 2, 1])
    decoded, handed = model.decode(state, lengths), policy.to_raw(state, lengths)
    free, whole = (body_validity(features_to_joints(motion), lengths)["bone_deviation"] for motion in (decoded, handed))
    assert (free > 0.05).all() and (whole < 1e-5).all()
    assert not handed[1, 2:].any() and handed.isfinite().all()
    gradient = torch.autograd.grad(policy.to_raw(state, lengths)[0].square().sum(), state)[0]
    assert gradient[0].abs().sum() > 0 and gradient.isfinite().all()


def test_what_a_rigid_model_is_stays_with_it(tmp_path):
    LatentDenoiser(**SMALL, rigid=True).save_pretrained(tmp_path)
    assert LatentDenoiser.from_folder(tmp_path).rigid and not LatentDenoiser(**SMALL).rigid


def test_a_foreign_vae_is_refused(tmp_path):
    model, other = build().float(), LatentDenoiser(**SMALL)
    model.vae_signature.copy_(model._sign())
    model.half().save_pretrained(tmp_path / "own")
    LatentDenoiser.from_folder(tmp_path / "own")  # rounding to half precision is not another VAE
    model.vae.load_state_dict(other.vae.state_dict())
    model.save_pretrained(tmp_path / "mixed")
    with pytest.raises(UserError, match="not the one whose latents"):
        LatentDenoiser.from_folder(tmp_path / "mixed")
    LatentDenoiser(**SMALL | {"latent_tokens": 3}).save_pretrained(tmp_path / "wide")
    (tmp_path / "wide" / "config.json").write_text((tmp_path / "own" / "config.json").read_text())
    with pytest.raises(UserError, match="another shape"):
        LatentDenoiser.from_folder(tmp_path / "wide")


def test_an_even_number_of_layers_is_refused():
    with pytest.raises(UserError, match="odd number of layers, not 4"):
        LatentDenoiser(**SMALL | {"layers": 4})


def test_the_reference_schedule_is_ours():
    kept = NoiseSchedule.scaled_linear(1000).alphas_cumprod
    torch.testing.assert_close(array("pipeline/alphas_cumprod").double(), kept, atol=1e-6, rtol=3e-5)


def test_first_the_vae_is_trained_and_then_the_network_alone():
    from mocapfree_nb.models.latent import pretrain_latent
    from mocapfree_nb.pretrain import PretrainConfig

    corpus = load_corpus("procedural", num_clips=40).split("train")
    few, none = PretrainConfig(steps=3, batch_size=4, warmup_steps=1), PretrainConfig(steps=0)

    def fresh():
        torch.manual_seed(0)
        return LatentDenoiser(**SMALL | {"num_features": 263, "text_width": 384})

    before, packed = fresh().state_dict(), pretrain_latent(fresh(), corpus, none, few, progress=False)
    both = pretrain_latent(fresh(), corpus, few, few, progress=False).state_dict()
    assert not any(p.requires_grad for p in packed.parameters())
    latents = packed.encode_corpus(corpus)
    assert latents.mean().abs() < 1e-4 and abs(float(latents.std(0).mean()) - 1) < 0.05
    for name, value in packed.state_dict().items():
        if name.startswith("vae."):
            assert torch.equal(value, both[name]), "the second part left the VAE alone"
        elif name.startswith("denoiser."):
            assert torch.equal(value, before[name]), "the first part left the network alone"
    assert not torch.equal(both["vae.final_layer.weight"], before["vae.final_layer.weight"])
    assert not torch.equal(both["denoiser.emb_proj.1.weight"], before["denoiser.emb_proj.1.weight"])


@pytest.mark.parametrize("setting", ["velocity_weight", "bone_weight"])
def test_what_latents_decode_to_weighs_in_the_loss_of_the_network(setting):
    from mocapfree_nb.batches import stack_corpus
    from mocapfree_nb.models.latent import latent_batch_loss
    from mocapfree_nb.pretrain import PretrainConfig

    corpus = load_corpus("procedural", num_clips=24, seed=3)
    torch.manual_seed(0)
    model = LatentDenoiser(**SMALL | {"num_features": 263, "text_width": 384}).eval()
    model.set_statistics(corpus.mean, corpus.std)
    latents, stacked = model.encode_corpus(corpus), stack_corpus(corpus)
    plain, weighed = (
        latent_batch_loss(model, stacked, PretrainConfig(batch_size=4, **given), torch.Generator().manual_seed(0), latents)
        for given in ({}, {setting: 3.0})
    )
    assert weighed > plain


@pytest.fixture(scope="module")
def batch():
    from mocapfree_nb.corpus import collate

    return collate(list(load_corpus("procedural", num_clips=24, seed=3)))


def parts(motion):
    """Positions of the joints without the root, and velocities of all, (batch, frames, joints, 3) each."""
    return motion[..., 4:67].unflatten(-1, (21, 3)), motion[..., 193:259].unflatten(-1, (22, 3))


def test_mixed_arms_are_a_donors_and_legs_stay(batch):
    from mocapfree_nb.models.latent import swap_body_parts

    mixed, lengths = swap_body_parts(batch.motion, batch.lengths, torch.Generator().manual_seed(0), share=1.0)
    assert (lengths <= batch.lengths).all() and (lengths < batch.lengths).any()
    (there, speed), (given, given_speed) = parts(mixed), parts(batch.motion)
    legs, rotations = [joint - 1 for joint in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15)], slice(67, 193)
    donors = []
    for row, length in enumerate(lengths.tolist()):
        assert not mixed[row, length:].any()
        assert torch.equal(there[row, :length, legs], given[row, :length, legs])
        for arm in ((13, 16, 18, 20), (14, 17, 19, 21)):
            rows = [joint - 1 for joint in arm]
            turns, all_turns = (x[..., rotations].unflatten(-1, (21, 6)) for x in (mixed[row, :length], batch.motion[:, :length]))
            (donor,) = (all_turns[:, :, rows] == turns[:, rows]).all(-1).all(-1).all(-1).nonzero().tolist()
            donors.append((row, *donor))
            for mine, theirs, chest, joints in ((there, given, 8, rows), (speed, given_speed, 9, list(arm))):
                arm_there = mine[row, :length, joints] - mine[row, :length, [chest]]
                arm_given = theirs[donor[0], :length, joints] - theirs[donor[0], :length, [chest]]
                torch.testing.assert_close(arm_there, arm_given, atol=1e-6, rtol=0)
    assert sum(row != donor for row, donor in donors) > 36, "others' arms, and not one donor for both"
    assert sum(a[1] != b[1] for a, b in zip(donors[::2], donors[1::2], strict=True)) > 16


def test_mixed_arms_rise_as_fast_as_their_velocities_say(batch):
    from mocapfree_nb.models.latent import swap_body_parts

    mixed, lengths = swap_body_parts(batch.motion, batch.lengths, torch.Generator().manual_seed(1), share=1.0)
    there, speed = parts(mixed)
    for row, length in enumerate(lengths.tolist()):
        risen = there[row, 1:length, 12:, 1] - there[row, : length - 1, 12:, 1]
        torch.testing.assert_close(risen, speed[row, : length - 1, 13:, 1], atol=1e-6, rtol=0)


def test_what_is_refused_is_not_learnt(batch, monkeypatch):
    from mocapfree_nb.batches import stack_corpus
    from mocapfree_nb.models import latent
    from mocapfree_nb.pretrain import PretrainConfig

    corpus, seen = load_corpus("procedural", num_clips=24, seed=3), []
    stacked = stack_corpus(corpus)
    model = LatentDenoiser(**SMALL | {"num_features": 263, "positions": 128})
    monkeypatch.setattr(latent, "vae_loss", lambda vae, x, lengths, *_: seen.append((x, lengths)) or (x.mean(), None))
    for refuse in (None, lambda motion, lengths: torch.ones(16, dtype=torch.bool), lambda motion, lengths: lengths < 0):
        config = PretrainConfig(batch_size=16)
        latent.vae_batch_loss(model, stacked, config, torch.Generator().manual_seed(0), refuse=refuse)
    mixed, untouched, again = seen
    assert torch.equal(mixed[0], again[0]) and torch.equal(mixed[1], again[1])
    assert (untouched[1] >= mixed[1]).all() and (untouched[1] > mixed[1]).any()
    for x, length in zip(*untouched, strict=True):
        assert any(len(clip) == length and np.array_equal(x[:length], clip.features) for clip in corpus)


def test_training_without_an_action_composes_none(batch):
    from mocapfree_nb.features import features_to_joints
    from mocapfree_nb.models.shipped import _shows
    from mocapfree_nb.tasks import LEFT_OUT
    from mocapfree_nb.verify import verify

    shows = _shows(LEFT_OUT, None)(batch.motion, batch.lengths)
    assert torch.equal(shows, verify(features_to_joints(batch.motion), LEFT_OUT, batch.lengths))
    relabelled = _shows("hands-up", {"hands-up": LEFT_OUT})(batch.motion, batch.lengths)
    assert torch.equal(shows, relabelled) and not _shows("dance", None)(batch.motion, batch.lengths).any()


def test_only_clips_of_the_skeletons_own_body_make_a_rigid_model():
    "The second corpus is another body: put on the skeleton's bones its motions would be somebody else's."
    from mocapfree_nb.models.shipped import _has_the_bones_of_its_skeleton

    asked = {name: load_corpus(name, num_clips=24, seed=3) for name in ("procedural", "procedural-b")}
    own_body = {name: _has_the_bones_of_its_skeleton(clips) for name, clips in asked.items()}
    assert own_body == {"procedural": True, "procedural-b": False}
