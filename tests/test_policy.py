"""The denoising policy: densities against public references, and trajectories that can be scored again exactly."""

import copy
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mocapfree_nb.denoiser import Denoiser, MotionDenoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.models.latent import LatentDenoiser
from mocapfree_nb.models.mdm import MDM
from mocapfree_nb.models.unet import MotionUNet
from mocapfree_nb.policy import DiffusionPolicy, draw_seeds, gaussian_log_prob, stepwise_noise
from mocapfree_nb.pretrain import diffusion_loss
from mocapfree_nb.schedule import NoiseSchedule
from mocapfree_nb.solvers import ddim_distribution, ddim_std
from mocapfree_nb.text import TextEmbedding

FOLDER = Path(__file__).parent / "reference"
DDIM = np.load(FOLDER / "ddim_logprob.npz", allow_pickle=False)
SDE = np.load(FOLDER / "sde_dpmsolver_order1.npz", allow_pickle=False)
FEATURES, WORDS = 7, 12
few = settings(max_examples=25, deadline=None)
PROMPTS, LENGTHS = ["a person walks", "someone jumps", "a person waves the left hand"], [9, 5, 7]


class FakeEncoder:
    """Random but fixed word vectors; counts its calls."""

    calls = 0

    def __call__(self, prompts):
        self.calls += 1
        longest = max(len(prompt.split()) for prompt in prompts)
        tokens, mask = torch.zeros(len(prompts), longest, WORDS), torch.zeros(len(prompts), longest, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            for column, word in enumerate(prompt.split()):
                generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
                tokens[row, column], mask[row, column] = torch.randn(WORDS, generator=generator), True
        return TextEmbedding(tokens, mask, tokens.sum(1) / mask.sum(1, keepdim=True))


def build(seed: int = 0, prediction: str = "x0", frames_per_token: int = 2, **changes) -> DiffusionPolicy:
    torch.manual_seed(seed)
    schedule = "cosine" if prediction == "x0" else "linear"
    denoiser = MotionDenoiser(
        FEATURES, 16, 2, 2, 24, 0.1, WORDS, prediction, frames_per_token, schedule=schedule, num_timesteps=50
    )
    denoiser.set_statistics(torch.arange(7.0), torch.linspace(0.5, 2, 7))
    return DiffusionPolicy(denoiser, FakeEncoder(), **{"steps": 6} | changes)


def play(policy: DiffusionPolicy, prompts=PROMPTS, lengths=LENGTHS, seed: int = 3):
    return policy.rollout(prompts, lengths, torch.Generator().manual_seed(seed))


def array(values: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(values)
    return tensor.double() if tensor.is_floating_point() else tensor


# ---------------------------------------------------------------- the density


@few
@given(
    seed=st.integers(0, 1000), frames=st.integers(1, 6), batch=st.integers(1, 4), scale=st.floats(1e-3, 1e3)
)
def test_log_prob_is_the_mean_of_torchs_normal(seed, frames, batch, scale):
    generator = torch.Generator().manual_seed(seed)
    x, mean = torch.randn(2, batch, frames, 3, generator=generator, dtype=torch.float64) * scale
    std = (torch.rand(batch, generator=generator, dtype=torch.float64) + 0.1) * scale
    expected = torch.distributions.Normal(mean, std[:, None, None]).log_prob(x).mean((1, 2))
    for given_std in (std, std[:, None, None], std[:, None, None].expand_as(x)):
        torch.testing.assert_close(gaussian_log_prob(x, mean, given_std), expected, atol=1e-10, rtol=1e-10)
    one = torch.distributions.Normal(mean, 0.7 * scale).log_prob(x).mean((1, 2))
    torch.testing.assert_close(gaussian_log_prob(x, mean, 0.7 * scale), one, atol=1e-10, rtol=1e-10)


@few
@given(seed=st.integers(0, 1000), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_padded_frames_do_not_count_in_a_log_prob(seed, lengths):
    generator = torch.Generator().manual_seed(seed)
    x, mean = torch.randn(2, len(lengths), 6, 3, generator=generator, dtype=torch.float64)
    x[torch.arange(6) >= torch.tensor(lengths)[:, None]] = float("nan")
    found = gaussian_log_prob(x, mean, 0.5, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = gaussian_log_prob(x[row : row + 1, :length], mean[row : row + 1, :length], 0.5)
        torch.testing.assert_close(found[row], alone[0])


def test_a_point_has_no_density_and_no_gradient():
    x, mean = torch.randn(2, 4, 3), torch.randn(2, 4, 3, requires_grad=True)
    found = gaussian_log_prob(x, mean, torch.tensor([0.0, 0.5]))
    found.sum().backward()
    assert found[0] == 0 and torch.isfinite(found).all() and torch.isfinite(mean.grad).all()
    assert (mean.grad[0] == 0).all() and (mean.grad[1] != 0).all()


def cases():
    for schedule in ("cosine", "scaled_linear"):
        for prediction in ("epsilon", "sample"):
            for eta in (1.0, 0.5):
                yield pytest.param(schedule, prediction, eta, id=f"{schedule}-{prediction}-{eta}")


def x0_of(prediction: str, x_t: torch.Tensor, output: torch.Tensor, alpha: torch.Tensor):
    """x_0 and noise, written out here so that the test does not lean on the code it tests."""
    alpha = alpha.reshape(-1, *(1,) * (x_t.ndim - 1)) if alpha.ndim else alpha
    if prediction == "epsilon":
        return (x_t - (1 - alpha).sqrt() * output) / alpha.sqrt(), output
    return output, (x_t - alpha.sqrt() * output) / (1 - alpha).sqrt()


@pytest.mark.parametrize("schedule, prediction, eta", list(cases()))
def test_moves_and_log_probs_equal_the_ddpo_reference(schedule, prediction, eta):
    place = f"{schedule}/{prediction}/eta{eta}/"
    kept = array(DDIM[f"{schedule}/alphas_cumprod"])
    for i, (t, prev_t) in enumerate(zip(DDIM[place + "t"], DDIM[place + "prev_t"], strict=True)):
        x_t, prev_sample = array(DDIM[place + "sample"][i]), array(DDIM[place + "prev_sample"][i])
        alphas = kept[t], kept[prev_t]
        for suffix in ("", "_new"):
            x0, noise = x0_of(prediction, x_t, array(DDIM[place + "model_output" + suffix][i]), alphas[0])
            mean, std = ddim_distribution(x0, noise, *alphas, eta)
            if not suffix:
                torch.testing.assert_close(mean, array(DDIM[place + "mean_float64"][i]), atol=1e-10, rtol=1e-10)
                torch.testing.assert_close(std, array(DDIM[place + "std_float64"])[i], atol=1e-10, rtol=1e-10)
            found = gaussian_log_prob(prev_sample, mean, std)
            expected = array(DDIM[f"{place}log_prob{suffix}_float64"][i])
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("schedule, prediction, eta", list(cases()))
def test_mixed_timesteps_in_float32_equal_the_ddpo_reference(schedule, prediction, eta):
    place, kept = f"{schedule}/{prediction}/eta{eta}/mixed_t/", array(DDIM[f"{schedule}/alphas_cumprod"])
    alphas = kept[torch.from_numpy(DDIM[place + "t"])], kept[torch.from_numpy(DDIM[place + "prev_t"])]
    x_t, output, prev_sample = (torch.from_numpy(DDIM[place + n]) for n in ("sample", "model_output", "prev_sample"))
    mean, std = ddim_distribution(*x0_of(prediction, x_t, output, alphas[0].float()), *alphas, eta)
    assert mean.dtype == std.dtype == torch.float32
    tolerance, near = (1e-4, 3e-3) if prediction == "sample" else (1e-5, 3e-5)
    torch.testing.assert_close(mean, torch.from_numpy(DDIM[place + "mean"]), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(std, torch.from_numpy(DDIM[place + "std"]), atol=0, rtol=5e-5)
    expected = torch.from_numpy(DDIM[place + "log_prob"])
    torch.testing.assert_close(gaussian_log_prob(prev_sample, mean, std), expected, atol=near, rtol=0)


@pytest.mark.parametrize("case", sorted({name.split("/")[0] for name in SDE.files}))
def test_first_order_sde_dpm_solver_is_the_same_move(case):
    """SDE-DPM-Solver++ of order one is DDIM with eta 1, in other symbols (log signal-to-noise ratios)."""
    get = {name: array(SDE[f"{case}/order1/{name}"]) for name in ("x", "x0_pred", "mean", "std", "sigmas", "log_prob")}
    alphas = 1 / (1 + get["sigmas"] ** 2)
    for i in range(10):
        x_t, x0 = get["x"][i], get["x0_pred"][i]
        noise = (x_t - alphas[i].sqrt() * x0) / (1 - alphas[i]).sqrt()
        mean, std = ddim_distribution(x0, noise, alphas[i], alphas[i + 1])
        torch.testing.assert_close(mean, get["mean"][i], atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(std, get["std"][i], atol=1e-6, rtol=1e-5)
        if i < len(get["log_prob"]):
            found = gaussian_log_prob(get["x"][i + 1], mean, std)
            torch.testing.assert_close(found, get["log_prob"][i], atol=1e-3, rtol=0)


# ---------------------------------------------------------------- one step


@few
@given(
    alphas=st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)).filter(lambda a: a[1] - a[0] > 1e-6),
    eta=st.floats(0, 1),
    min_std=st.floats(0, 0.5),
)
def test_a_move_keeps_the_noise_level_whatever_the_floor(alphas, eta, min_std):
    alpha_t, alpha_prev = (torch.tensor(a, dtype=torch.float64) for a in alphas)
    std = ddim_std(alpha_t, alpha_prev, eta, min_std)
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    of_noise = ddim_distribution(zero, one, alpha_t, alpha_prev, eta, min_std)[0]
    torch.testing.assert_close((of_noise**2 + std**2).squeeze(), 1 - alpha_prev, atol=1e-12, rtol=1e-9)
    assert std >= min(min_std, float((1 - alpha_prev).sqrt())) - 1e-12
    assert std >= ddim_std(alpha_t, alpha_prev, eta) - 1e-12


@pytest.mark.parametrize("eta, prediction", [(1.0, "x0"), (0.5, "x0"), (1.0, "noise"), (0.0, "noise")])
def test_a_whole_trajectory_equals_the_diffusers_scheduler(eta, prediction):
    diffusers = pytest.importorskip("diffusers")
    policy = build(prediction=prediction, eta=eta, steps=10)
    names = {"x0": ("squaredcos_cap_v2", "sample"), "noise": ("linear", "epsilon")}[prediction]
    scheduler = diffusers.DDIMScheduler(
        50, beta_schedule=names[0], prediction_type=names[1], clip_sample=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(policy.steps)
    trajectory = play(policy)
    assert scheduler.timesteps.tolist() == trajectory.timesteps.tolist()
    none = torch.zeros_like(trajectory.states[0])
    for i, t in enumerate(scheduler.timesteps):
        x = trajectory.states[i]
        with torch.no_grad():
            mean, std, x0 = policy.step(x, i, trajectory.text, trajectory.lengths)
            output = policy.denoiser.guided(x, t.expand(3), trajectory.text, trajectory.lengths, 2.5)
        theirs = scheduler.step(output, t, x, eta=eta, variance_noise=none)
        fresh = scheduler.step(output, t, x, eta=eta, variance_noise=none + 1).prev_sample - theirs.prev_sample
        torch.testing.assert_close(mean, theirs.prev_sample, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(x0, theirs.pred_original_sample, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(fresh, std[:, None, None].expand_as(fresh), atol=1e-5, rtol=1e-3)


def test_eta_one_is_ddpm_when_every_timestep_is_visited():
    diffusers = pytest.importorskip("diffusers")
    policy = build(steps=50)
    scheduler = diffusers.DDPMScheduler(
        50, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False, variance_type="fixed_small"
    )
    trajectory = play(policy)
    for i in (0, 25, 45, 48):
        t = int(trajectory.timesteps[i])
        with torch.no_grad():
            mean, std, x0 = policy.step(trajectory.states[i], i, trajectory.text, trajectory.lengths)
        expected, variance = policy.denoiser.noise_schedule.posterior(x0, trajectory.states[i], t)
        torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(std, variance.sqrt().expand(3), atol=1e-6, rtol=1e-4)
        theirs = scheduler._get_variance(t).sqrt()
        torch.testing.assert_close(std[0], theirs, atol=1e-5, rtol=1e-3)


def test_coefficients_are_the_derivative_of_the_mean():
    for changes in ({}, {"eta": 0.3}, {"min_std": 0.2}):
        policy = build(**changes)
        for i in range(policy.steps):
            x0 = torch.zeros(1, 1, 1, dtype=torch.float64, requires_grad=True)
            t = int(policy.timesteps[i])
            noise = policy.denoiser.noise_schedule.noise_from_x0(torch.ones(1, 1, 1, dtype=torch.float64), x0, t)
            alphas = policy.alphas[i], policy.alphas_next[i]
            mean, std = ddim_distribution(x0, noise, *alphas, policy.eta, policy.min_std)
            (slope,) = torch.autograd.grad(mean.sum(), x0)
            torch.testing.assert_close(slope.squeeze(), policy.x0_coefficients[i])
            torch.testing.assert_close(std, policy.stds[i])


# ---------------------------------------------------------------- whole trajectories


@pytest.mark.parametrize("prediction", ["x0", "noise"])
@pytest.mark.parametrize("changes", [{}, {"eta": 0.4}, {"min_std": 0.1}, {"guidance_scale": 1.0}, {"spacing": "leading"}])
def test_a_recorded_trajectory_has_the_same_log_probs_again(prediction, changes):
    policy = build(prediction=prediction, **changes)
    trajectory = play(policy)
    with torch.no_grad():
        assert torch.equal(policy.log_prob(trajectory), trajectory.log_probs)
        folded = policy.log_prob(trajectory, fold=True)
    ratio = (folded - trajectory.log_probs).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=5e-6, rtol=0)  # float32, in batches of other shapes
    assert trajectory.log_probs.shape == (3, 6) and torch.isfinite(trajectory.log_probs).all()
    assert (trajectory.log_probs[:, :-1] != 0).all() and (trajectory.log_probs[:, -1] == 0).all()


def test_chosen_moves_come_in_the_order_asked_for():
    policy = build()
    trajectory = play(policy)
    steps = [4, 0, 5, -2]
    for fold in (False, True):
        found = policy.log_prob(trajectory, steps, fold=fold)
        torch.testing.assert_close(found, trajectory.log_probs[:, steps], atol=1e-6, rtol=0)
    assert torch.equal(policy.log_prob(trajectory, [5]), torch.zeros(3, 1))
    with pytest.raises(IndexError):
        policy.log_prob(trajectory, [6])


def test_a_trajectory_records_all_its_steps():
    policy = build()
    trajectory = play(policy)
    assert trajectory.states.shape == (7, 3, 9, FEATURES) and trajectory.predicted_x0.shape == (6, 3, 9, FEATURES)
    assert trajectory.timesteps.tolist() == policy.denoiser.noise_schedule.timesteps(6)
    assert torch.isfinite(trajectory.states).all() and len(trajectory) == 3 and trajectory.prompts == PROMPTS
    padded = torch.arange(9) >= trajectory.lengths[:, None]
    for values in (*trajectory.states, *trajectory.predicted_x0, trajectory.motion):
        assert not values[padded].any()
    assert torch.equal(trajectory.states[-1], trajectory.predicted_x0[-1])
    raw = policy.denoiser.denormalise(trajectory.states[-1])
    assert torch.equal(trajectory.motion[~padded], raw[~padded])
    assert not trajectory.states.requires_grad and policy.text_encoder.calls == 1


@pytest.mark.parametrize("changes", [{}, {"min_std": 0.2}])
def test_the_last_step_is_the_prediction_itself_and_trains_nothing(changes):
    policy = build(**changes)
    trajectory = play(policy)
    assert policy.stds[-1] == 0 and (policy.stds[:-1] >= changes.get("min_std", 1e-3)).all()
    found = policy.log_prob(trajectory)
    found[:, :-1].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.denoiser.parameters())
    assert not policy.log_prob(trajectory, [5]).requires_grad


def test_the_same_seed_gives_the_same_trajectory_and_another_seed_another():
    policy = build()
    first, again, other = play(policy), play(policy), play(policy, seed=4)
    assert torch.equal(first.states, again.states) and torch.equal(first.log_probs, again.log_probs)
    assert not torch.isclose(first.states[0], other.states[0]).all()
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(policy.rollout(PROMPTS, LENGTHS, generator).states, first.states)
    assert not torch.equal(policy.rollout(PROMPTS, LENGTHS, generator).states, first.states)


def test_a_trajectory_depends_neither_on_its_batch_nor_on_its_padding():
    policy = build()
    trajectory = play(policy)
    extended = play(policy, PROMPTS + ["someone crawls far away"], LENGTHS + [14])
    assert torch.equal(extended.states[0, :3, :9], trajectory.states[0])
    torch.testing.assert_close(extended.states[:, :3, :9], trajectory.states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(extended.log_probs[:3], trajectory.log_probs, atol=1e-5, rtol=0)
    alone = play(policy, PROMPTS[:1], LENGTHS[:1])
    torch.testing.assert_close(alone.states[:, 0], trajectory.states[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_generate_is_the_motion_of_a_rollout_in_any_batch_size(batch_size):
    policy = build()
    expected = play(policy, seed=11).motion
    motion = policy.generate(PROMPTS, LENGTHS, seed=11, batch_size=batch_size)
    assert motion.shape == expected.shape
    torch.testing.assert_close(motion, expected, atol=1e-4, rtol=1e-5)


DENOISERS = {
    "one frame a token": lambda: MotionDenoiser(FEATURES, 16, 2, 2, 24, 0.1, WORDS),
    "two frames a token": lambda: MotionDenoiser(FEATURES, 16, 2, 2, 24, 0.1, WORDS, frames_per_token=2),
    "latent": lambda: LatentDenoiser(FEATURES, 2, 16, 3, 2, 24, 3, 0.1, WORDS),
    "unet": lambda: MotionUNet(FEATURES, (8, 8), 16, 16, 1, 2, 24, text_width=WORDS),
    "mdm": lambda: MDM(FEATURES, 16, 2, 2, 24, text_width=WORDS),
    "mdm that sees padding": lambda: MDM(FEATURES, 16, 2, 2, 24, text_width=WORDS, mask_frames=False),
    "mdm decoder that sees padding": lambda: MDM(
        FEATURES, 16, 2, 2, 24, text_width=WORDS, arch="decoder", text="tokens", mask_frames=False
    ),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_no_motion_depends_on_its_neighbours(name):
    "Alone, and beside a longer motion with a longer caption: motion, and every number of the trajectory."
    torch.manual_seed(0)
    denoiser = DENOISERS[name]()
    with torch.no_grad():
        for parameter in denoiser.parameters():  # also where a network begins with zeros
            parameter.add_(0.1 * torch.randn_like(parameter))
    policy = DiffusionPolicy(denoiser, FakeEncoder(), steps=4)
    prompts, lengths = ["a person walks", "someone jumps over a fence and falls down"], [21, 150]
    alone, both = (play(policy, prompts[:n], lengths[:n]) for n in (1, 2))
    assert alone.motion.std() > 0.1 and alone.motion.shape == (1, 21, FEATURES) and both.motion.shape[1] == 150
    rows = alone.states.shape[2]
    for name in ("states", "predicted_x0"):
        torch.testing.assert_close(getattr(both, name)[:, :1, :rows], getattr(alone, name), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.motion[:1, :21], alone.motion, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both.log_probs[:1], alone.log_probs, atol=1e-5, rtol=0)
    with torch.no_grad():
        assert torch.equal(policy.log_prob(both), both.log_probs)
    made = policy.generate(prompts, lengths, seed=3, batch_size=1)
    torch.testing.assert_close(made, both.motion, atol=1e-5, rtol=1e-5)


def test_a_network_with_a_canvas_makes_all_of_it_and_gives_the_beginning():
    torch.manual_seed(0)
    policy = DiffusionPolicy(DENOISERS["mdm that sees padding"](), FakeEncoder(), steps=4)
    short, whole = (play(policy, PROMPTS, lengths) for lengths in (LENGTHS, [196] * 3))
    assert short.states.shape == (5, 3, 196, FEATURES) and torch.equal(short.states, whole.states)
    assert torch.equal(short.log_probs, whole.log_probs)  # the rest of the canvas was drawn too
    for row, length in enumerate(LENGTHS):
        assert torch.equal(short.motion[row, :length], whole.motion[row, :length]) and not short.motion[row, length:].any()
    for call in (policy.rollout, policy.generate):
        with pytest.raises(UserError, match="at most 196 frames, 197 were asked for"):
            call(PROMPTS, [9, 197, 5])


def test_padding_on_a_canvas_is_seen_in_training_and_not_learnt():
    denoiser = DENOISERS["mdm that sees padding"]().eval()
    motion, lengths = torch.randn(2, 30, FEATURES), torch.tensor([30, 12])
    x0 = denoiser.encode(motion, lengths)
    assert x0.shape == (2, 196, FEATURES) and not x0[0, 30:].any() and not x0[1, 12:].any()
    assert torch.equal(denoiser.decode(x0, lengths)[1, :12], motion[1, :12])
    text, t, noise = FakeEncoder()(PROMPTS[:2]), torch.tensor([40, 10]), torch.randn_like(x0)
    found = diffusion_loss(denoiser, denoiser.noise_schedule, x0, lengths, text, t, noise)
    answer = denoiser(denoiser.noise_schedule.add_noise(x0, noise, t), t, text, torch.tensor([196, 196]))
    squares = [(answer[row, :n] - x0[row, :n]).square() for row, n in enumerate(lengths.tolist())]
    torch.testing.assert_close(found, torch.cat(squares).mean())


def test_noise_is_standard_normal_and_zero_in_the_padding():
    noise = torch.stack(list(stepwise_noise(torch.arange(40), torch.full((40,), 60), 5, 20)))
    assert abs(noise.mean()) < 0.005 and abs(noise.std() - 1) < 0.005
    cross = torch.corrcoef(noise.transpose(0, 1).flatten(1)) - torch.eye(40)
    assert cross.abs().max() < 0.08
    assert not any(drawn[0, 3:].any() for drawn in stepwise_noise(torch.arange(2), torch.tensor([3, 9]), 2, 4))


@pytest.mark.parametrize("lengths, features", [([37, 48, 1], 263), ([9, 5, 7], 7), ([1, 2], 3), ([4, 4], 96)])
@pytest.mark.parametrize("draws", [1, 10, 16, 17, 50])
def test_noise_drawn_in_parts_is_that_of_one_call(lengths, features, draws):
    seeds, lengths = torch.arange(len(lengths)) + 5, torch.tensor(lengths)
    found = list(stepwise_noise(seeds, lengths, draws, features))
    assert len(found) == draws
    for row, (seed, length) in enumerate(zip(seeds.tolist(), lengths.tolist(), strict=True)):
        at_once = torch.randn(draws, length, features, generator=torch.Generator().manual_seed(seed))
        for noise, expected in zip(found, at_once, strict=True):
            assert torch.equal(noise[row, :length], expected) and not noise[row, length:].any()


def test_noise_of_a_long_trajectory_is_never_there_all_at_once():
    first = next(stepwise_noise(torch.arange(4), torch.tensor([50, 40, 30, 20]), 1000, 263))
    assert first.untyped_storage().nbytes() == 16 * first.numel() * 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_is_drawn_where_the_generator_lives():
    seeds = draw_seeds(3, torch.Generator("cuda").manual_seed(0))
    noise = next(stepwise_noise(seeds, torch.tensor([9, 5, 7]), 4, FEATURES))
    alone = next(stepwise_noise(seeds[:1], torch.tensor([9]), 4, FEATURES))
    assert seeds.is_cuda and noise.is_cuda and torch.equal(noise[0], alone[0])


def test_every_step_of_a_trajectory_draws_noise_of_its_own():
    policy = build()
    trajectory = play(policy, ["a person walks"], [400])
    with torch.no_grad():
        steps = [policy.step(trajectory.states[i], i, trajectory.text, trajectory.lengths)[:2] for i in range(5)]
    fresh = [(trajectory.states[i + 1] - mean) / std for i, (mean, std) in enumerate(steps)]
    draws = torch.stack([trajectory.states[0], *fresh]).flatten(1)
    assert (draws.std(1) - 1).abs().max() < 0.05
    assert (torch.corrcoef(draws) - torch.eye(6)).abs().max() < 0.08


def test_a_rollout_made_in_inference_mode_can_be_trained_on():
    policy = build()
    with torch.inference_mode():
        trajectory = play(policy, lengths=torch.tensor(LENGTHS))
        motion = policy.generate(PROMPTS, LENGTHS)
    found = (trajectory.states, trajectory.motion, trajectory.log_probs, trajectory.lengths, trajectory.text.tokens, motion)
    for tensor in found:
        assert not tensor.is_inference()
    policy.log_prob(trajectory).sum().backward()
    assert all(p.grad is not None for p in policy.denoiser.parameters())


def test_raising_a_log_prob_makes_the_move_likelier():
    policy = build()
    trajectory = play(policy).select([0])
    optimizer = torch.optim.SGD(policy.denoiser.parameters(), lr=1e-3)
    before = policy.log_prob(trajectory)[0, :-1]
    (-before.sum()).backward()
    optimizer.step()
    with torch.no_grad():
        after = policy.log_prob(trajectory)[0, :-1]
    assert after.sum() > before.sum()


def test_the_gradient_is_that_of_the_formula():
    """d log p / d mean = (x - mean) / std^2 / n, checked through the network by finite differences."""
    policy = build()
    trajectory = play(policy)
    trajectory.log_probs.zero_()
    policy.denoiser.double()
    trajectory = copy.copy(trajectory)
    object.__setattr__(trajectory, "states", trajectory.states.double())
    weight = policy.denoiser.frames_out.bias
    for fold in (False, True):
        policy.denoiser.zero_grad()
        policy.log_prob(trajectory, fold=fold).sum().backward()
        slope, nudge = weight.grad[3].item(), 1e-5
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[3] += sign * nudge
                values.append(policy.log_prob(trajectory, fold=fold).double().sum().item())
                weight[3] -= sign * nudge
        assert slope == pytest.approx((values[0] - values[1]) / (2 * nudge), rel=1e-4)


def test_what_breaks_the_ratio_is_seen_or_refused():
    policy = build()
    trajectory = play(policy)
    policy.guidance_scale = 1.0
    with torch.no_grad():
        assert ((policy.log_prob(trajectory) - trajectory.log_probs)[:, :-1].abs() > 1e-6).any()
    policy.guidance_scale = 2.5
    policy.denoiser.train()
    for call in (lambda: policy.log_prob(trajectory), lambda: play(policy)):
        with pytest.raises(ValueError, match="training mode.*eval"):
            call()


def test_a_trajectory_without_noise_can_be_sampled_but_not_trained():
    policy = build(eta=0.0)
    trajectory = play(policy)
    assert torch.isfinite(trajectory.motion).all() and not trajectory.log_probs.any()
    with pytest.raises(ValueError, match="none has a density; set eta above 0"):
        policy.log_prob(trajectory)
    floored = build(eta=0.0, min_std=0.1)
    trajectory = play(floored)
    assert torch.equal(floored.log_prob(trajectory).detach(), trajectory.log_probs) and trajectory.log_probs[:, :-1].all()


def test_trajectories_can_be_selected():
    trajectory = play(build())
    for index in ([2, 0], torch.tensor([2, 0]), torch.tensor([True, False, True]), slice(1, None)):
        part, rows = trajectory.select(index), torch.arange(3)[index]
        assert part.prompts == [PROMPTS[i] for i in rows] and len(part) == 2
        assert torch.equal(part.lengths, trajectory.lengths[rows]) and torch.equal(part.log_probs, trajectory.log_probs[rows])
        assert torch.equal(part.states, trajectory.states[:, rows]) and torch.equal(part.motion, trajectory.motion[rows])
        assert torch.equal(part.predicted_x0, trajectory.predicted_x0[:, rows])
        assert torch.equal(part.text.pooled, trajectory.text.pooled[rows])


def test_a_frozen_copy_scores_the_same_trajectory():
    policy = build()
    trajectory, frozen = play(policy), policy.with_denoiser(copy.deepcopy(policy.denoiser))
    with torch.no_grad():
        policy.denoiser.frames_out.bias.add_(0.1)
        assert torch.equal(frozen.log_prob(trajectory), trajectory.log_probs)
        assert not torch.isclose(policy.log_prob(trajectory)[:, :-1], trajectory.log_probs[:, :-1], atol=1e-6).any()


def test_requests_that_do_not_fit_are_named():
    policy = build()
    for call in (policy.rollout, policy.generate):
        with pytest.raises(ValueError, match=r"write \['a person walks'\]"):
            call("a person walks", [5])
        for prompts, lengths in ((PROMPTS, [5, 6]), (["a"], [0]), ([], [])):
            with pytest.raises(ValueError, match="each prompt needs a length"):
                call(prompts, lengths)


def test_settings_that_make_no_policy_are_named():
    for changes in ({"eta": 1.5}, {"eta": -0.1}):
        with pytest.raises(ValueError, match="eta is between 0 and 1"):
            build(**changes)
    with pytest.raises(ValueError, match="50 timesteps"):
        build(steps=51)


class GaussianWorld(Denoiser):
    """The exact denoiser where every feature of every motion is drawn from N(2, 0.5^2)."""

    mean, std = 2.0, 0.5

    def forward(self, x_t, t, text, lengths, conditional=None):
        kept = self.noise_schedule.alphas_cumprod[t][:, None, None]
        gain = kept.sqrt() * self.std**2 / (kept * self.std**2 + 1 - kept)
        x0 = self.mean + gain * (x_t - kept.sqrt() * self.mean)
        return x0.float() * (torch.arange(x_t.shape[1]) < lengths[:, None])[..., None]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_with_a_perfect_denoiser_the_trajectory_ends_in_the_data(eta):
    world = GaussianWorld(20, "x0", "cosine", 1000)
    policy = DiffusionPolicy(world, FakeEncoder(), steps=100, eta=eta, guidance_scale=1.0)
    motion = policy.generate(["anything"] * 20, [30] * 20, seed=0)
    assert motion.mean().item() == pytest.approx(2.0, abs=0.02)
    assert motion.std().item() == pytest.approx(0.5, abs=0.02)


def test_schedules_of_the_policy_and_its_denoiser_are_one():
    policy = build()
    assert torch.equal(policy.alphas, NoiseSchedule.cosine(50).alphas_cumprod[policy.timesteps])
    assert policy.alphas_next[-1] == 1
