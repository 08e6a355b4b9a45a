"""Noise schedules against two public implementations, and the algebra they must obey."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mocapfree_nb.schedule import (
    NoiseSchedule,
    Spacing,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    shifted_cosine_betas,
    spaced_timesteps,
)

REFERENCE = np.load(Path(__file__).parent / "reference" / "schedules.npz", allow_pickle=False)
few = settings(max_examples=30, deadline=None)
SPACINGS = get_args(Spacing)
NAMES, LENGTHS = ("cosine", "linear", "scaled_linear"), (50, 1000)


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(REFERENCE[name])


def openai_schedule(name: str, timesteps: int) -> NoiseSchedule:
    """OpenAI's linear schedule scales its ends with 1000 / T, ours (like diffusers') does not."""
    scale = 1000 / timesteps if name == "linear" else 1
    return NoiseSchedule.from_betas(getattr(NoiseSchedule, name)(timesteps).betas * scale)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("timesteps", LENGTHS)
def test_schedules_equal_diffusers(name, timesteps):
    schedule = getattr(NoiseSchedule, name)(timesteps)
    for part in ("betas", "alphas_cumprod"):
        values = getattr(schedule, part)
        assert values.dtype == torch.float64 and values.shape == (timesteps,)
        expected = reference(f"diffusers/{name}/T{timesteps}/{part}").double()
        torch.testing.assert_close(values, expected, atol=1e-6, rtol=3e-5)


@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize("timesteps", LENGTHS)
def test_schedules_equal_openai(name, timesteps):
    schedule = openai_schedule(name, timesteps)
    for part in ("betas", "alphas_cumprod"):
        expected = reference(f"openai/{name}/T{timesteps}/{part}")
        torch.testing.assert_close(getattr(schedule, part), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize("timesteps", LENGTHS)
def test_posterior_coefficients_equal_openai_at_every_timestep(name, timesteps):
    schedule, t = openai_schedule(name, timesteps), torch.arange(timesteps)
    one, zero = torch.ones(timesteps, 1, dtype=torch.float64), torch.zeros(timesteps, 1, dtype=torch.float64)
    found = {
        "posterior_mean_coef1": schedule.posterior(one, zero, t)[0][:, 0],
        "posterior_mean_coef2": schedule.posterior(zero, one, t)[0][:, 0],
        "posterior_variance": schedule.posterior(one, one, t)[1],
    }
    variance = found["posterior_variance"]
    found["posterior_log_variance_clipped"] = torch.cat([variance[1:2], variance[1:]]).log()
    for part, values in found.items():
        expected = reference(f"openai/{name}/T{timesteps}/{part}")
        torch.testing.assert_close(values, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize("timesteps", LENGTHS)
def test_conversions_and_posterior_equal_openai(name, timesteps):
    schedule, place = openai_schedule(name, timesteps), f"posterior/{name}/T{timesteps}/"
    t, x0, xt, noise = (reference(place + part) for part in ("t", "x0", "xt", "noise"))
    mean, variance = schedule.posterior(x0, xt, t)
    for found, part in (
        (mean, "mean"),
        (variance, "variance"),
        (schedule.add_noise(x0, noise, t), "q_sample"),
        (schedule.noise_from_x0(xt, x0, t), "eps_from_xstart"),
        (schedule.x0_from_noise(xt, noise, t), "xstart_from_eps"),
    ):
        torch.testing.assert_close(found, reference(place + part), atol=1e-12, rtol=1e-12)
    for found, part in (
        (schedule.posterior(x0.float(), xt.float(), t)[0], "mean_float32"),
        (schedule.add_noise(x0.float(), noise.float(), t), "q_sample_float32"),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, reference(place + part), atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [10, 50])
def test_timestep_spacings_equal_the_references(steps):
    for spacing in ("leading", "linspace", "trailing"):
        expected = REFERENCE[f"timesteps/diffusers/{spacing}/S{steps}/offset0"].tolist()
        assert spaced_timesteps(1000, steps, spacing) == expected
    offset = REFERENCE[f"timesteps/diffusers/leading/S{steps}/offset1"].tolist()
    assert [t + 1 for t in spaced_timesteps(1000, steps, "leading")] == offset
    assert spaced_timesteps(1000, steps, "leading")[::-1] == REFERENCE[f"timesteps/openai/ddim{steps}"].tolist()
    assert spaced_timesteps(1000, steps, "linspace")[::-1] == REFERENCE[f"timesteps/openai/{steps}"].tolist()


@pytest.mark.parametrize("name, theirs", [("cosine", "squaredcos_cap_v2"), ("linear", "linear")])
def test_noise_and_variance_equal_the_diffusers_scheduler(name, theirs):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(50, beta_schedule=theirs)
    schedule, t = getattr(NoiseSchedule, name)(50), torch.tensor([1, 20, 48])
    x0, noise = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        schedule.add_noise(x0, noise, t), scheduler.add_noise(x0, noise, t), atol=1e-6, rtol=1e-4
    )
    expected = torch.stack([scheduler._get_variance(int(step)) for step in t])
    torch.testing.assert_close(schedule.posterior(x0, noise, t)[1], expected, atol=1e-6, rtol=3e-5)


@few
@given(total=st.integers(1, 2000), share=st.floats(0, 1), spacing=st.sampled_from(SPACINGS))
def test_timesteps_descend_strictly_inside_the_schedule(total, share, spacing):
    steps = max(1, round(share * total))
    stops = spaced_timesteps(total, steps, spacing)
    assert len(stops) == steps and 0 <= stops[-1] and stops[0] < total
    assert all(earlier > later for earlier, later in zip(stops, stops[1:], strict=False))
    if spacing == "trailing":
        assert stops[0] == total - 1
    if spacing == "leading":
        assert stops[-1] == 0


@pytest.mark.parametrize("spacing", SPACINGS)
def test_no_walk_visits_a_timestep_twice(spacing):
    "Every number of steps up to that of the timesteps, whose walk is all of them."
    for total in range(1, 65):
        for steps in range(1, total + 1):
            stops = spaced_timesteps(total, steps, spacing)
            assert len(set(stops)) == steps and sorted(stops, reverse=True) == stops, (total, steps, stops)
            assert 0 <= stops[-1] and stops[0] < total
        assert stops == list(range(total - 1, -1, -1))


@few
@given(name=st.sampled_from(NAMES), total=st.integers(2, 400))
def test_a_step_back_undoes_the_last_step_forward(name, total):
    """q(x_t | x_0) followed by q(x_(t-1) | x_t, x_0) is q(x_(t-1) | x_0): same mean, same variance."""
    schedule, t = getattr(NoiseSchedule, name)(total), torch.arange(total)
    kept = schedule.alphas_cumprod
    before = torch.cat([kept.new_ones(1), kept[:-1]])
    one, zero = kept.new_ones(total, 1), kept.new_zeros(total, 1)
    mean, variance = schedule.posterior(one, kept.sqrt()[:, None], t)
    on_xt = schedule.posterior(zero, one, t)[0][:, 0]
    torch.testing.assert_close(mean[:, 0], before.sqrt(), atol=1e-10, rtol=0)
    torch.testing.assert_close(on_xt**2 * (1 - kept) + variance, 1 - before, atol=1e-10, rtol=0)
    assert (kept.diff() < 0).all() and 0 < kept[-1] and kept[0] < 1


@few
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 1000))
def test_motion_noise_and_mixture_give_each_other(name, seed):
    generator = torch.Generator().manual_seed(seed)
    schedule, t = getattr(NoiseSchedule, name)(50), torch.randint(50, (3,), generator=generator)
    x0, noise = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    x_t = schedule.add_noise(x0, noise, t)
    torch.testing.assert_close(schedule.noise_from_x0(x_t, x0, t), noise)
    torch.testing.assert_close(schedule.x0_from_noise(x_t, noise, t), x0)


def test_a_timestep_for_each_motion_equals_one_at_a_time():
    schedule, t = NoiseSchedule.cosine(50), torch.tensor([0, 17, 49])
    x0, noise = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    together, (mean, variance) = schedule.add_noise(x0, noise, t), schedule.posterior(x0, noise, t)
    for row, step in enumerate(t.tolist()):
        assert torch.equal(together[row], schedule.add_noise(x0[row], noise[row], step))
        own_mean, own_variance = schedule.posterior(x0[row], noise[row], step)
        assert torch.equal(mean[row], own_mean) and variance[row] == own_variance


def test_the_first_timestep_leads_back_to_the_data_itself():
    x0, x_t = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    mean, variance = NoiseSchedule.cosine(50).posterior(x0, x_t, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(mean, x0)
    assert variance.tolist() == [0, 0]


@pytest.mark.parametrize("betas", [[], [0.1, 1.0], [0.0, 0.1], [[0.1]], [float("nan")]])
def test_betas_that_make_no_schedule_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        NoiseSchedule.from_betas(torch.tensor(betas))


def test_impossible_walks_are_refused():
    for steps in (0, 51):
        with pytest.raises(ValueError, match="between 1 and the schedule's 50 timesteps"):
            NoiseSchedule.cosine(50).timesteps(steps)
    with pytest.raises(ValueError, match="'sideways'"):
        NoiseSchedule.cosine(50).timesteps(10, "sideways")


def test_named_schedules_are_their_betas():
    named = {"cosine": cosine_betas, "linear": linear_betas, "scaled_linear": scaled_linear_betas}
    for name, betas in (named | {"shifted_cosine": shifted_cosine_betas}).items():
        assert torch.equal(getattr(NoiseSchedule, name)(20).betas, betas(20))


@pytest.mark.parametrize("shift", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("timesteps", LENGTHS)
def test_a_shifted_cosine_lowers_the_log_signal_to_noise_ratio_by_twice_the_log_of_the_shift(timesteps, shift):
    own, cosine = (torch.cumprod(1 - b, 0)[:-1] for b in (shifted_cosine_betas(timesteps, shift), cosine_betas(timesteps)))
    torch.testing.assert_close(own.logit(), cosine.logit() - 2 * np.log(shift), atol=1e-8, rtol=1e-8)
