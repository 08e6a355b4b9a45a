"""The denoiser: what it must not see, what guidance is, and how it is kept."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mocapfree_nb.corpus import collate, load_corpus
from mocapfree_nb.denoiser import DENOISERS, Denoiser, MotionDenoiser, find_denoiser, register_denoiser
from mocapfree_nb.evaluation import check_whole_bodies
from mocapfree_nb.features import features_to_joints
from mocapfree_nb.files import WEIGHTS, UserError
from mocapfree_nb.models.blocks import SelfAttention, TransformerBlock, interleaved_sinusoids, sinusoids
from mocapfree_nb.models.registry import load_denoiser
from mocapfree_nb.pretrain import PretrainConfig, pretrain
from mocapfree_nb.published.checkpoints import read_checkpoint
from mocapfree_nb.tasks import LEFT_OUT_ACTIONS
from mocapfree_nb.text import TextEmbedding, default_text_encoder

SIZE = {"num_features": 11, "width": 16, "layers": 2, "heads": 2, "feedforward": 24, "text_width": 12}


def build(**changes) -> MotionDenoiser:
    torch.manual_seed(0)
    return MotionDenoiser(**SIZE | changes).eval().double()


def inputs(batch: int = 3, frames: int = 9, words: int = 5, seed: int = 1):
    """Noisy motion, timesteps, captions and lengths; the longest fills all frames."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, frames, SIZE["num_features"], generator=generator, dtype=torch.float64)
    mask = torch.arange(words) < torch.randint(2, words + 1, (batch, 1), generator=generator)
    tokens = torch.randn(batch, words, SIZE["text_width"], generator=generator) * mask[..., None]
    text = TextEmbedding(tokens, mask, torch.randn(batch, SIZE["text_width"], generator=generator))
    lengths = torch.randint(3, frames + 1, (batch,), generator=generator)
    lengths[0] = frames
    return x, torch.randint(50, (batch,), generator=generator), text, lengths


groups = pytest.mark.parametrize("frames_per_token", [1, 2, 3, 4])


@groups
def test_padded_frames_are_zero_and_what_they_hold_does_not_matter(frames_per_token):
    denoiser, (x, t, text, lengths) = build(frames_per_token=frames_per_token), inputs()
    out = denoiser(x, t, text, lengths)
    padded = torch.arange(x.shape[1]) >= lengths[:, None]
    assert out.shape == x.shape and (out[padded] == 0).all() and (out[~padded] != 0).all()
    for junk in (1e6, float("nan"), float("inf")):
        corrupted = x.masked_fill(padded[..., None], junk)
        assert torch.equal(denoiser(corrupted, t, text, lengths), out)


@groups
def test_padding_further_changes_nothing(frames_per_token):
    denoiser, (x, t, text, lengths) = build(frames_per_token=frames_per_token), inputs()
    out = denoiser(x, t, text, lengths)
    for extra in (1, 2, 5):
        longer = denoiser(nn.functional.pad(x, (0, 0, 0, extra), value=7.0), t, text, lengths)
        torch.testing.assert_close(longer[:, : x.shape[1]], out, atol=1e-12, rtol=1e-10)
        assert not longer[:, x.shape[1] :].any()


@groups
def test_a_motion_does_not_depend_on_its_batch(frames_per_token):
    denoiser, (x, t, text, lengths) = build(frames_per_token=frames_per_token), inputs()
    out = denoiser(x, t, text, lengths)
    order = torch.tensor([2, 0, 1])
    shuffled = denoiser(x[order], t[order], text[order], lengths[order])
    torch.testing.assert_close(shuffled, out[order], atol=1e-12, rtol=1e-10)
    for row in range(len(x)):
        alone = denoiser(x[[row]], t[[row]], text[row], lengths[[row]])
        torch.testing.assert_close(alone[0], out[row], atol=1e-12, rtol=1e-10)


def test_masked_words_are_not_read():
    denoiser, (x, t, text, lengths) = build(), inputs()
    out = denoiser(x, t, text, lengths)
    junk = TextEmbedding(text.tokens.masked_fill(~text.mask[..., None], 9.0), text.mask, text.pooled)
    torch.testing.assert_close(denoiser(x, t, junk, lengths), out, atol=1e-12, rtol=1e-10)
    more = TextEmbedding(
        nn.functional.pad(text.tokens, (0, 0, 0, 4), value=5.0), nn.functional.pad(text.mask, (0, 4)), text.pooled
    )
    torch.testing.assert_close(denoiser(x, t, more, lengths), out, atol=1e-12, rtol=1e-10)


def test_guidance_in_one_pass_equals_two_passes():
    denoiser, (x, t, text, lengths) = build(), inputs()
    shown = denoiser(x, t, text, lengths)
    hidden = denoiser(x, t, text, lengths, torch.zeros(len(x), dtype=torch.bool))
    assert (shown - hidden).abs().max() > 1e-3
    for scale in (0.0, 0.5, 2.5, 7.0):
        expected = hidden + scale * (shown - hidden)
        torch.testing.assert_close(denoiser.guided(x, t, text, lengths, scale), expected, atol=1e-12, rtol=1e-10)
    assert torch.equal(denoiser.guided(x, t, text, lengths, 1), shown)


def test_a_hidden_caption_leaves_no_trace():
    denoiser, (x, t, text, lengths) = build(), inputs(words=5)
    other = inputs(words=8, seed=7)[2]
    hide = torch.tensor([False, True, False])
    out, out_other = denoiser(x, t, text, lengths, hide), denoiser(x, t, other, lengths, hide)
    torch.testing.assert_close(out[~hide], out_other[~hide], atol=1e-12, rtol=1e-10)
    assert (out[hide] - out_other[hide]).abs().max() > 1e-3
    torch.testing.assert_close(out[hide], denoiser(x, t, text, lengths)[hide], atol=1e-12, rtol=1e-10)


def test_timestep_words_and_order_of_frames_all_count():
    denoiser, (x, t, text, lengths) = build(), inputs()
    out = denoiser(x, t, text, lengths)
    moved = TextEmbedding(text.tokens.roll(1, 2), text.mask, text.pooled)
    pooled = TextEmbedding(text.tokens, text.mask, text.pooled.roll(1, 1))
    for changed in (
        denoiser(x, (t + 1) % 50, text, lengths),
        denoiser(x, t, moved, lengths),
        denoiser(x, t, pooled, lengths),
        denoiser(x.flip(1), t, text, torch.full_like(lengths, 9)).flip(1),
    ):
        assert (changed - out)[0].abs().max() > 1e-4


def test_no_gradient_comes_from_padding_and_every_weight_gets_one():
    denoiser, (x, t, text, lengths) = build(frames_per_token=2), inputs()
    x.requires_grad_()
    denoiser(x, t, text, lengths).square().sum().backward()
    padded = torch.arange(x.shape[1]) >= lengths[:, None]
    assert (x.grad[padded] == 0).all() and (x.grad[~padded] != 0).any(-1).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in denoiser.named_parameters() if "key.bias" not in n)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_block_equals_pytorchs_layer(heads):
    torch.manual_seed(0)
    block = TransformerBlock(16, heads, 24, 0.1).eval().double()
    theirs = nn.TransformerEncoderLayer(16, heads, 24, 0.1, "gelu", batch_first=True, norm_first=True)
    theirs, own = theirs.double().eval(), block.state_dict()
    packed = {f"self_attn.in_proj_{kind}": torch.cat([own[f"attention.{name}.{kind}"] for name in ("query", "key", "value")])
              for kind in ("weight", "bias")}
    theirs.load_state_dict(packed | {
        name.replace("attention.out", "self_attn.out_proj"): value
        for name, value in own.items() if not name.startswith(("attention.q", "attention.k", "attention.v"))
    })
    x, attended = torch.randn(3, 6, 16, dtype=torch.float64), torch.arange(6) < torch.tensor([[6], [3], [1]])
    expected = theirs(x, src_key_padding_mask=~attended)
    torch.testing.assert_close(block(x, attended)[attended], expected[attended], atol=1e-12, rtol=1e-10)


def test_attention_layers_can_take_a_low_rank_correction():
    attention = SelfAttention(16, 4)
    assert all(isinstance(layer, nn.Linear) for layer in attention.children())
    peft = pytest.importorskip("peft")
    denoiser, (x, t, text, lengths) = build().float(), inputs()
    before = denoiser(x.float(), t, text, lengths)
    adapted = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["query", "value"]), denoiser)
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * SIZE["layers"] and all("lora" in name for name in trained)
    torch.testing.assert_close(adapted.eval()(x.float(), t, text, lengths), before)


def test_sinusoids_are_the_papers():
    positions, width = torch.tensor([0, 1, 49]), 8
    found = sinusoids(positions, width).numpy()
    for row, position in enumerate(positions.tolist()):
        angles = position / 10_000 ** (2 * np.arange(width // 2) / width)
        np.testing.assert_allclose(found[row], np.concatenate([np.sin(angles), np.cos(angles)]), atol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "scaled_linear"])
def test_either_prediction_can_be_read_as_motion_and_noise(schedule):
    (x0, t, _, _), noise = inputs(), inputs(seed=2)[0]
    for prediction, output in (("x0", x0), ("noise", noise)):
        denoiser = build(prediction=prediction, schedule=schedule)
        x_t = denoiser.noise_schedule.add_noise(x0, noise, t)
        motion, found_noise = denoiser.x0_and_noise(output, x_t, t)
        torch.testing.assert_close(motion, x0, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(found_noise, noise, atol=1e-9, rtol=1e-9)


def test_normalisation_is_undone_and_kept_with_the_weights(tmp_path):
    denoiser, motion = build().float(), torch.randn(2, 5, 11) * 3 + 1
    denoiser.set_statistics(np.arange(11.0), np.full(11, 2.0))
    normal = denoiser.normalise(motion)
    torch.testing.assert_close(normal, (motion - torch.arange(11.0)) / 2)
    torch.testing.assert_close(denoiser.denormalise(normal), motion)
    denoiser.save_pretrained(tmp_path)
    again = MotionDenoiser.from_folder(tmp_path)
    x, t, text, lengths = inputs()
    assert torch.equal(again(x.float(), t, text, lengths), denoiser(x.float(), t, text, lengths))
    assert torch.equal(again.feature_mean, denoiser.feature_mean) and not again.training
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["num_features"] == 11 and config["schedule"] == "cosine"


def test_dropout_acts_in_training_mode_only():
    denoiser, arguments = build(dropout=0.5), inputs()
    assert torch.equal(denoiser(*arguments), denoiser(*arguments))
    denoiser.train()
    assert not torch.equal(denoiser(*arguments), denoiser(*arguments))


def test_half_precision_stays_close_and_gives_the_dtype_it_was_given():
    denoiser, (x, t, text, lengths) = build().float(), inputs()
    full = denoiser(x.float(), t, text, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        half = denoiser(x.float(), t, text, lengths)
    assert half.dtype == torch.float32 and 0 < (half - full).abs().max() < 0.1


def test_inputs_that_do_not_fit_are_named():
    denoiser, (x, t, text, lengths) = build(), inputs()
    with pytest.raises(ValueError, match=r"x_t should be \(batch, frames, 11\), got \(3, 9, 10\)"):
        denoiser(x[..., :10], t, text, lengths)
    for arguments in ((x, t[:2], text, lengths), (x, t, text[:2], lengths), (x, t, text, lengths[:2])):
        with pytest.raises(ValueError, match="3 motions need one timestep, length and caption each"):
            denoiser(*arguments)


def test_settings_that_make_no_denoiser_are_named():
    for setting, message in (
        ({"prediction": "velocity"}, "prediction .* x0, noise, v, not 'velocity'"),
        ({"schedule": "square"}, "schedule .* not 'square'"),
        ({"width": 18, "heads": 4}, "multiple of twice the heads"),
    ):
        with pytest.raises(UserError, match=message):
            MotionDenoiser(**SIZE | setting)


def test_statistics_that_do_not_fit_are_refused():
    for mean, std in ((np.zeros(10), np.ones(10)), (np.zeros(11), np.zeros(11))):
        with pytest.raises(ValueError, match="should have shape"):
            build().set_statistics(mean, std)


def test_the_base_class_carries_any_network():
    class Echo(Denoiser):
        def forward(self, x_t, t, text, lengths, conditional=None):
            return x_t * (2.0 if conditional is None else torch.where(conditional, 2.0, 1.0)[:, None, None])

    x, t, text, lengths = inputs()
    guided = Echo(11, "x0", "cosine", 50).guided(x, t, text, lengths, 3.0)
    torch.testing.assert_close(guided, x * (1 + 3 * (2 - 1)))


# ---------------------------------------------------------------- what lengths it has seen


def tiny(**changes):
    return MotionDenoiser(**{"width": 16, "layers": 1, "heads": 2, "feedforward": 16} | changes)


def test_the_trained_range_is_measured_in_pretraining_and_saved(tmp_path):
    corpus = load_corpus("procedural", num_clips=80).split("train")
    lengths = [len(clip) for clip in corpus]
    model = pretrain(tiny(), corpus, PretrainConfig(steps=1, batch_size=4), progress=False)
    assert model.trained_frames == (min(lengths), max(lengths))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["trained_frames"] == [min(lengths), max(lengths)]
    for again in (MotionDenoiser.from_folder(tmp_path), read_checkpoint(tmp_path).model):
        assert again.trained_frames == model.trained_frames


def test_a_model_saved_before_the_range_was_noted_still_loads(tmp_path):
    tiny().save_pretrained(tmp_path)
    assert "trained_frames" not in json.loads((tmp_path / "config.json").read_text())
    for again in (MotionDenoiser.from_folder(tmp_path), read_checkpoint(tmp_path).model):
        assert again.trained_frames is None and again.length_note([1, 10_000], 20) is None


@pytest.mark.parametrize("name", [f"{kind}{part}" for kind in ("denoiser", "latent", "unet") for part in ("", "-leave-one-out")])
def test_shipped_models_know_the_lengths_of_the_built_in_corpus(name):
    clips = load_corpus("procedural", num_clips=300)  # of 4,000; the range is that of all
    assert load_denoiser(WEIGHTS / name).trained_frames == (min(map(len, clips)), max(map(len, clips)))


@pytest.mark.parametrize("name", ["denoiser", "denoiser-leave-one-out", "unet", "unet-leave-one-out"])
def test_shipped_models_can_copy_what_they_are_shown(name):
    "With next to no noise nothing is to be guessed: what is lost then, the network is too narrow to say (lesson 26)."
    clips = load_corpus("procedural", num_clips=600)
    for action in LEFT_OUT_ACTIONS if name.endswith("out") else ():
        clips = clips.leave_out(action)
    batch, denoiser = collate(list(clips.split("test"))), load_denoiser(WEIGHTS / name)
    t, x0 = torch.ones(len(batch), dtype=torch.long), denoiser.encode(batch.motion, batch.lengths)
    x_t = denoiser.noise_schedule.add_noise(x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)), t)
    with torch.inference_mode():
        predicted, _ = denoiser.x0_and_noise(denoiser(x_t, t, default_text_encoder()(batch.prompts), batch.lengths), x_t, t)
        joints = features_to_joints(denoiser.decode(predicted, batch.lengths))
    labels = ["+".join(actions) for actions in batch.actions]
    passes = check_whole_bodies(joints, batch.lengths, labels, None).tolist()
    assert "twist" in labels and [label for label, passed in zip(labels, passes, strict=True) if not passed] == []


@pytest.mark.parametrize(
    "lengths, expected",
    [
        ([36, 48, 40], None),
        ([35, 50], None),  # a frame or two: nobody sees them, and printed in seconds the two ranges would read alike
        ([196], "9.8 s asked for, longer than the 1.8 to 2.4 s"),
        (torch.tensor([20, 40]), "1.0 to 2.0 s asked for, shorter than the 1.8 to 2.4 s"),
        ([33, 54], "1.6 to 2.7 s asked for, both longer and shorter than the 1.8 to 2.4 s"),
    ],
)
def test_lengths_beyond_the_trained_range_are_said_in_one_line(lengths, expected):
    note = tiny(trained_frames=[36, 48]).length_note(lengths, 20)
    assert note is None if expected is None else note.startswith(expected) and "\n" not in note


@pytest.mark.parametrize("frames", [[48, 36], [0, 5], [36], [1.5, 2.5], "ab", [36, 48, 60]])
def test_a_range_that_is_none_is_refused(frames):
    with pytest.raises(UserError, match="trained_frames is the shortest and the longest"):
        tiny(trained_frames=frames)


# ---------------------------------------------------------------- what it lacks


def test_what_a_model_was_trained_without_is_saved_with_it(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    assert "left_out" not in json.loads((tmp_path / "config.json").read_text())
    assert MotionDenoiser.from_folder(tmp_path).left_out == ()
    model.left_out = ("run", "squat+punch-left")
    model.save_pretrained(tmp_path)
    for again in (MotionDenoiser.from_folder(tmp_path), read_checkpoint(tmp_path).model, load_denoiser(tmp_path)):
        assert again.left_out == model.left_out


@pytest.mark.parametrize("wrong", ["run", {"run": 1}, [1], 3])
def test_what_is_no_list_of_labels_is_one_clear_line(tmp_path, wrong):
    tiny().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"left_out": wrong}))
    with pytest.raises(UserError, match="left_out is .*a list of labels is expected"):
        load_denoiser(tmp_path)


@pytest.mark.parametrize("kind", ["denoiser", "latent", "unet"])
def test_shipped_models_say_what_they_lack(kind):
    assert load_denoiser(WEIGHTS / f"{kind}-leave-one-out").left_out == LEFT_OUT_ACTIONS
    assert load_denoiser(WEIGHTS / kind).left_out == ()


# ---------------------------------------------------------------- found by name


def test_a_denoiser_is_found_by_the_name_in_its_config(monkeypatch):
    monkeypatch.setattr("mocapfree_nb.denoiser.DENOISERS", known := dict(DENOISERS))
    assert find_denoiser("MotionDenoiser") is MotionDenoiser
    assert all(find_denoiser(name).__name__ == name for name in list(known))

    class MyDenoiser(Denoiser):
        pass

    with pytest.raises(UserError, match="no denoiser 'MyDenoiser'; did you mean 'MotionDenoiser'.*register_denoiser"):
        find_denoiser("MyDenoiser")
    assert register_denoiser(MyDenoiser) is MyDenoiser and find_denoiser("MyDenoiser") is MyDenoiser
    MyDenoiser.__module__ = "elsewhere"
    other = type("MyDenoiser", (Denoiser,), {"__module__": "here"})
    with pytest.raises(UserError, match="there is a denoiser 'MyDenoiser' already, in elsewhere"):
        register_denoiser(other)
    for module in ("__main__", "here"):  # in a notebook the last definition counts
        other.__module__ = module
        assert register_denoiser(other) is find_denoiser("MyDenoiser") is other


def test_a_lesson_is_imported_only_when_its_denoiser_is_asked_for():
    code = (
        "import sys; from mocapfree_nb.denoiser import find_denoiser; assert 'mocapfree_nb.models.unet' not in sys.modules; "
        "find_denoiser('MotionUNet'); assert 'mocapfree_nb.models.latent' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_interleaved_waves_are_those_of_the_paper():
    found = interleaved_sinusoids(torch.arange(30), 8)
    place, pair = torch.arange(30)[:, None].double(), torch.arange(4).double()
    angle = place / 10_000 ** (2 * pair / 8)
    torch.testing.assert_close(found.double(), torch.stack([angle.sin(), angle.cos()], -1).flatten(1), atol=1e-5, rtol=0)
    assert torch.equal(found[:, ::2], sinusoids(torch.arange(30), 8)[:, :4])
