"""Pretraining: it learns, it resumes bit for bit, and it says clearly why it stops."""

import numpy as np
import pytest
import torch

from mocapfree_nb.corpus import Clip, Corpus, load_corpus
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.pretrain import PretrainConfig, diffusion_loss, masked_mean_square, pretrain
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
