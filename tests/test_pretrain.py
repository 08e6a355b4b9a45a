"""Pretraining: it learns, it resumes bit for bit, and it says clearly why it stops."""

import numpy as np
import pytest
import torch

from mocapfree_nb.corpus import Clip, Corpus, load_corpus
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.models.latent import LatentDenoiser
from mocapfree_nb.pretrain import PretrainConfig, bone_error, diffusion_loss, masked_mean_square, pretrain, velocity_error
from mocapfree_nb.runstate import borrowed_generators, load_state
from mocapfree_nb.text import default_text_encoder

CORPUS = load_corpus("procedural", num_clips=60).split("train")
CONFIG = PretrainConfig(steps=6, batch_size=8, warmup_steps=2)


def tiny(**settings):
    torch.manual_seed(0)
    size = {"width": 32, "layers": 1, "heads": 2, "feedforward": 32, "frames_per_token": 4}
    return MotionDenoiser(**size, **settings)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path):
    whole = pretrain(tiny(), CORPUS, CONFIG, progress=False)

    class Stop(Exception):
        pass

    def stop(step, loss):
        if step == 4:
            raise Stop

    checkpoint = tmp_path / "state.pt"
    with pytest.raises(Stop):
        pretrain(tiny(), CORPUS, CONFIG, checkpoint=checkpoint, checkpoint_every=3, on_step=stop, progress=False)
    resumed = pretrain(tiny(), CORPUS, CONFIG, checkpoint=checkpoint, checkpoint_every=3, progress=False)
    assert same(whole, resumed)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    one, again = (pretrain(tiny(), CORPUS, CONFIG, progress=False) for _ in range(2))
    other = pretrain(tiny(), CORPUS, PretrainConfig(steps=6, batch_size=8, warmup_steps=2, seed=1), progress=False)
    assert same(one, again) and not same(one, other)


@pytest.mark.parametrize(("width", "used"), [(263, 67), (251, 64)])
def test_joint_weight_adds_the_error_of_positions_and_of_their_change(width, used):
    torch.manual_seed(0)
    denoiser, x0 = MotionDenoiser(num_features=width, width=32, layers=1, heads=2, feedforward=32), torch.randn(2, 8, width)
    error = torch.zeros(2, 8, width)
    error[:, 1::2, :used] = 2.0  # every second frame, so that each change is 2; what joints do not need is right
    denoiser.forward = lambda *arguments: x0 + error
    text, lengths, t = default_text_encoder()(["walks", "runs"]), torch.tensor([8, 4]), torch.tensor([3, 40])
    settings = denoiser, denoiser.noise_schedule, x0, lengths, text, t, torch.randn_like(x0)
    plain = 2.0 * used / width
    assert diffusion_loss(*settings).item() == pytest.approx(plain)
    assert diffusion_loss(*settings, joint_weight=3.0).item() == pytest.approx(plain + 3 * (2 + 4))
    error[..., :used], error[..., used:] = 0, 1.0
    assert diffusion_loss(*settings, joint_weight=3.0).item() == pytest.approx(1 - used / width)


@pytest.mark.parametrize("prediction", ["x0", "noise", "v"])
def test_the_loss_of_a_perfect_prediction_is_zero(prediction):
    denoiser = tiny(prediction=prediction).eval()
    x0, noise = torch.randn(2, 8, 263), torch.randn(2, 8, 263)
    kept = denoiser.noise_schedule.alphas_cumprod[[3, 40]].float()[:, None, None]
    target = {"x0": x0, "noise": noise, "v": kept.sqrt() * noise - (1 - kept).sqrt() * x0}[prediction]
    denoiser.forward = lambda *arguments: target
    text = default_text_encoder()(["walks", "runs"])
    loss = diffusion_loss(
        denoiser, denoiser.noise_schedule, x0, torch.tensor([8, 5]), text, torch.tensor([3, 40]), noise
    )
    assert loss < 1e-12
    t = torch.tensor([3, 40])
    found = denoiser.x0_and_noise(target, denoiser.noise_schedule.add_noise(x0, noise, t), t)
    for one, other in zip(found, (x0, noise), strict=True):  # and it can be read as both things it says
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_padding_does_not_count():
    difference = torch.randn(3, 10, 4)
    lengths = torch.tensor([10, 4, 1])
    rows = torch.cat([difference[i, :n] for i, n in enumerate(lengths)])
    torch.testing.assert_close(masked_mean_square(difference, lengths), rows.square().mean())


def test_clips_that_are_not_numbers_stop_the_training_with_a_reason():
    clip = Clip("broken", np.full((20, 263), np.nan, np.float32), ("walks",))
    corpus = Corpus((clip,), CORPUS.mean, CORPUS.std)
    with pytest.raises(UserError, match="step 0: the loss is nan"):
        pretrain(tiny(), corpus, CONFIG, progress=False)


def test_an_empty_corpus_and_a_foreign_checkpoint_are_named(tmp_path):
    with pytest.raises(UserError, match="no clips"):
        pretrain(tiny(), CORPUS.subset([]), CONFIG, progress=False)
    checkpoint = tmp_path / "state.pt"
    pretrain(tiny(), CORPUS, CONFIG, checkpoint=checkpoint, checkpoint_every=3, progress=False)
    with pytest.raises(UserError, match="other settings"):
        pretrain(tiny(), CORPUS, PretrainConfig(steps=9), checkpoint=checkpoint, progress=False)
    with pytest.raises(UserError, match="other settings or clips"):
        pretrain(tiny(), CORPUS.subset(list(CORPUS)[1:]), CONFIG, checkpoint=checkpoint, progress=False)
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="cannot resume"):
        pretrain(tiny(), CORPUS, CONFIG, checkpoint=checkpoint, progress=False)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": -1}, {"steps": 2.5}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")},
        {"warmup_steps": -1}, {"weight_decay": -1.0}, {"gradient_clip": -1.0}, {"gradient_clip": 0.0}, {"ema_decay": 1.5},
        {"text_dropout": -0.1}, {"seed": 2**70}, {"seed": 1.5}, {"bfloat16": "no"},
    ],
)
def test_settings_that_cannot_be_meant_are_named(change):
    with pytest.raises(UserError, match=f"{next(iter(change))} should be"):
        PretrainConfig(**change)


def test_what_was_frozen_stays_as_it_was():
    denoiser = tiny()
    denoiser.time_in.requires_grad_(False)
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    trained = pretrain(denoiser, CORPUS, CONFIG, progress=False).state_dict()
    moved = {name for name, value in trained.items() if not torch.equal(value, before[name])}
    assert "frames_in.weight" in moved and not any(name.startswith("time_in") for name in moved)
    assert not any(p.requires_grad for p in denoiser.time_in.parameters())


def test_the_users_random_numbers_are_untouched_on_every_device(monkeypatch):
    seeded, denoiser = [], tiny()
    for module, name in ((torch.cuda, "manual_seed_all"), (torch.cuda, "manual_seed"), (torch.mps, "manual_seed")):
        monkeypatch.setattr(module, name, lambda seed, name=name: seeded.append(name))
    torch.default_generator.manual_seed(5)
    expected = torch.rand(3)
    torch.default_generator.manual_seed(5)
    pretrain(denoiser, CORPUS, CONFIG, progress=False)
    assert torch.equal(torch.rand(3), expected) and not seeded
    with pytest.raises(ZeroDivisionError):
        with borrowed_generators(torch.device("cpu"), 0):
            torch.rand(2)
            raise ZeroDivisionError
    assert torch.equal(torch.rand(3), torch.rand(6, generator=torch.Generator().manual_seed(5))[3:])


def test_the_generator_of_another_device_is_borrowed_and_given_back(monkeypatch):
    class Pretended:
        """A device module as torch.cuda is, on the CPU; it has two devices."""

        generators = [torch.Generator().manual_seed(7), torch.Generator().manual_seed(8)]

        def get_rng_state(self, device):
            return self.generators[device.index].get_state()

        def set_rng_state(self, state, device):
            self.generators[device.index].set_state(state)

    module, plain = Pretended(), torch.Generator
    monkeypatch.setattr(torch, "get_device_module", lambda kind: module)
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": plain())
    before = [generator.get_state() for generator in module.generators]
    with borrowed_generators(torch.device("cuda", 1), 3):
        drawn = torch.rand(4, generator=module.generators[1])
        assert torch.equal(module.generators[0].get_state(), before[0])
    assert torch.equal(drawn, torch.rand(4, generator=plain().manual_seed(3)))
    for generator, state in zip(module.generators, before, strict=True):
        assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
)
def test_with_dropout_a_stopped_training_goes_on_bit_for_bit_and_the_user_draws_what_they_would_have(device, tmp_path):
    draw = lambda: torch.rand(3, device=device)
    torch.manual_seed(11)
    expected = draw()
    torch.manual_seed(11)
    whole = pretrain(tiny(dropout=0.3).to(device), CORPUS, CONFIG, progress=False)
    torch.manual_seed(11)

    def stop(step, loss):
        if step == 4:
            raise KeyboardInterrupt

    settings = {"checkpoint": tmp_path / "state.pt", "checkpoint_every": 3, "progress": False}
    fresh = [tiny(dropout=0.3).to(device) for _ in range(2)]
    torch.manual_seed(11)
    with pytest.raises(KeyboardInterrupt):
        pretrain(fresh[0], CORPUS, CONFIG, on_step=stop, **settings)
    assert same(whole, pretrain(fresh[1], CORPUS, CONFIG, **settings))
    assert torch.equal(draw(), expected)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("training") / "state.pt"
    pretrain(tiny(), CORPUS, CONFIG, checkpoint=path, checkpoint_every=3, progress=False)
    return path


def first(weights):
    return next(iter(weights.values()))


TAMPERED = {
    "no step": lambda s: s.pop("step"),
    "no run": lambda s: s.pop("run"),
    "step of another kind": lambda s: s.update(step="3"),
    "step beyond the end": lambda s: s.update(step=7),
    "step before the start": lambda s: s.update(step=-1),
    "weights": lambda s: s.update(model=[1]),
    "a weight missing": lambda s: s["model"].popitem(),
    "not a number": lambda s: first(s["average"]).fill_(float("nan")),
    "a shape": lambda s: s["model"].update({next(iter(s["model"])): torch.zeros(1)}),
    "updates": lambda s: s.update(updates=None),
    "moments": lambda s: s["optimizer"][0].update(exp_avg=torch.zeros(2)),
    "negative squares": lambda s: s["optimizer"][0]["exp_avg_sq"].fill_(-1),
    "optimiser of another kind": lambda s: s.update(optimizer=[]),
    "generator": lambda s: s.update(generator=torch.zeros(4, dtype=torch.uint8)),
    "history": lambda s: s.update(history=[3]),
    "torch's generator": lambda s: s.update(torch_generator=None),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_checkpoint_that_was_tampered_with_is_named_and_nothing_of_it_used(checkpoint, tmp_path, name):
    state, path = load_state(checkpoint), tmp_path / "state.pt"
    TAMPERED[name](state)
    torch.save(state, path)  # `save_state` would not write all of these
    before, denoiser = path.read_bytes(), tiny()
    weights = {key: value.clone() for key, value in denoiser.state_dict().items() if "feature" not in key}
    with pytest.raises(UserError, match="cannot resume.*state.pt: .*(remove|move) it (away )?to start anew") as caught:
        pretrain(denoiser, CORPUS, CONFIG, checkpoint=path, progress=False)
    assert "\n" not in str(caught.value) and path.read_bytes() == before
    assert all(torch.equal(value, denoiser.state_dict()[key]) for key, value in weights.items())


def test_velocity_error_is_the_squared_velocity_by_which_feet_and_hands_slide():
    clip = torch.as_tensor(CORPUS[0].features)[None]
    sliding = clip.clone()
    sliding[:, :, 2] += 0.01  # a hundredth of a metre a frame, 20 frames a second: .2 m/s along one of three axes
    lengths = torch.tensor([clip.shape[1]])
    assert velocity_error(clip, clip, lengths) == 0
    torch.testing.assert_close(velocity_error(sliding, clip, lengths), torch.tensor(0.2**2 / 3), rtol=1e-3, atol=0)
    half = clip.clone()
    half[:, clip.shape[1] // 2 :, 2] += 0.01
    torch.testing.assert_close(velocity_error(half, clip, lengths // 2), torch.tensor(0.0))
    waving = clip.clone()
    waving[:, ::2, 4 + 3 * 19 + 1] += 0.01  # the left wrist up and down: .2 m/s along one of three axes, of one of six joints
    torch.testing.assert_close(velocity_error(waving, clip, lengths), torch.tensor(0.2**2 / 3 / 6), rtol=1e-3, atol=0)


def test_bone_error_is_the_squared_share_by_which_bones_are_off():
    clip = torch.as_tensor(CORPUS[0].features)[None]
    lengths = torch.tensor([clip.shape[1]])
    scaled = clip.clone()
    scaled[..., 3:67] *= 1.2  # root height and positions: every bone a fifth longer, wherever the body faces and goes
    assert bone_error(clip, clip, lengths) == 0
    torch.testing.assert_close(bone_error(scaled, clip, lengths), torch.tensor(0.2**2), rtol=1e-3, atol=0)
    pair, twice = torch.cat([scaled, scaled]), torch.cat([clip, clip])
    weighed = bone_error(pair, twice, lengths.repeat(2), share=torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(weighed, torch.tensor(0.75 * 0.2**2), rtol=1e-3, atol=0)
    late = clip.clone()
    late[:, clip.shape[1] // 2 :, 3:67] *= 1.2
    assert bone_error(late, clip, lengths // 2) == 0
    clip.requires_grad_()
    bone_error(0 * clip, clip.detach(), lengths).backward()  # a body of no size has no direction to grow in
    assert clip.grad.isfinite().all()


@pytest.mark.parametrize("setting", ["velocity_weight", "bone_weight"])
@pytest.mark.parametrize("kind", ["motion", "latents"])
def test_weights_of_velocities_and_bones_add_the_error_of_the_predicted_motion(kind, setting):
    denoiser = (tiny() if kind == "motion" else LatentDenoiser(width=16, layers=1, heads=2, feedforward=16, vae_layers=1)).eval()
    denoiser.set_statistics(CORPUS.mean, CORPUS.std)
    motion, lengths = torch.as_tensor(CORPUS[0].features)[None], torch.tensor([len(CORPUS[0])])
    x0, text, t = denoiser.encode(motion, lengths), default_text_encoder()(["walks"]), torch.tensor([20])
    motion = denoiser.decode(x0, lengths).detach()
    settings = denoiser, denoiser.noise_schedule, x0, lengths, text, t, torch.randn_like(x0)
    with torch.no_grad():
        x_t = denoiser.noise_schedule.add_noise(x0, settings[-1], t)
        if setting == "velocity_weight":
            expected = velocity_error(denoiser.decode(denoiser(x_t, t, text, lengths), lengths), motion, lengths)
        else:
            shown, hidden = (denoiser(x_t, t, text, lengths, torch.tensor([flag])) for flag in (True, False))
            guided = denoiser.decode(hidden + 2.5 * (shown - hidden), lengths)
            expected = bone_error(guided, motion, lengths, denoiser.noise_schedule.alphas_cumprod[t])
        found = diffusion_loss(*settings, **{setting: 3.0}) - diffusion_loss(*settings)
    assert expected > 0
    torch.testing.assert_close(found, 3 * expected, rtol=1e-3, atol=1e-4)
