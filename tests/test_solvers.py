"""Samplers: steps of the published ones, and one decision process for every architecture, sampler and prediction."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from mocapfree_nb import ddpo, lora
from mocapfree_nb.denoiser import Denoiser, MotionDenoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.models.latent import LatentDenoiser
from mocapfree_nb.models.unet import MotionUNet
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.schedule import NoiseSchedule, spaced_timesteps
from mocapfree_nb.solvers import (
    SOLVERS,
    ddim_distribution,
    find_solver,
    per_motion,
    plan_sampling,
    register_sampler,
)
from mocapfree_nb.text import TextEmbedding

FOLDER = Path(__file__).parent / "reference"
SDE = {order: np.load(FOLDER / f"sde_dpmsolver_order{order}.npz", allow_pickle=False) for order in (1, 2)}
CASES = sorted({name.split("/")[0] for name in SDE[1].files})
FEATURES, WORDS = 7, 12
PROMPTS, LENGTHS = ["a person walks", "someone jumps", "a person waves the left hand"], [9, 5, 7]


class FakeEncoder:
    """Random but fixed word vectors."""

    def __call__(self, prompts):
        longest = max(len(prompt.split()) for prompt in prompts)
        tokens, mask = torch.zeros(len(prompts), longest, WORDS), torch.zeros(len(prompts), longest, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            for column, word in enumerate(prompt.split()):
                generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
                tokens[row, column], mask[row, column] = torch.randn(WORDS, generator=generator), True
        return TextEmbedding(tokens, mask, tokens.sum(1) / mask.sum(1, keepdim=True))


# ---------------------------------------------------------------- against diffusers' solver


class Linear(Denoiser):
    """The reference's model: output = a x + c, read as x_0 or as noise."""

    def __init__(self, a, c, prediction, schedule):
        super().__init__(c.shape[1], prediction, "cosine", schedule.num_timesteps)
        self.noise_schedule, self.a, self.c = schedule, a, c

    def forward(self, x_t, t, text, lengths, conditional=None):
        return self.a * x_t + self.c


def reference_policy(case: str, order: int) -> DiffusionPolicy:
    "The trajectory of the reference, but for its end: ours is always in clean data."
    a, c = (torch.from_numpy(SDE[2][f"{case}/order{order}/{name}"]) for name in ("a", "c"))
    config = json.loads(str(SDE[2][f"{case}/order2/config_json"]))
    kept = torch.from_numpy(SDE[2][f"{case}/order2/alphas_cumprod"]).double()
    schedule = NoiseSchedule(1 - kept / torch.cat([kept.new_ones(1), kept[:-1]]), kept)
    model = Linear(a, c, {"sample": "x0", "epsilon": "noise"}[config["prediction_type"]], schedule)
    timesteps = SDE[2][f"{case}/order2/timesteps"].tolist()
    solver = "sde-dpmsolver++" + ("2m" if order == 2 else "")
    return DiffusionPolicy(model, FakeEncoder(), steps=10, guidance_scale=1.0, spacing=timesteps, solver=solver)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_steps_and_trajectories_equal_the_sde_dpm_solver(case, order):
    get = {
        name: torch.from_numpy(SDE[order][f"{case}/order{order}/{name}"])
        for name in ("x", "mean", "std", "x0_pred", "log_prob")
    }
    policy, none = reference_policy(case, order), FakeEncoder()(["a"] * 2)
    clean_end = float(get["std"][-1]) == 0  # some references stop at timestep 0's noise: their last step is not ours
    x, lengths, known = get["x"][0], torch.full((2,), 5), None
    for i in range(10 if clean_end else 9):
        mean, std, x0 = policy.step(get["x"][i], i, none, lengths, None if i == 0 else get["x0_pred"][i - 1])
        torch.testing.assert_close(x0, get["x0_pred"][i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mean, get["mean"][i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(std, get["std"][i].expand(2), atol=1e-6, rtol=1e-5)
        if std[0] > 0:
            found = policy.step_log_prob(get["x"][i + 1], mean, std, lengths)
            normal = torch.distributions.Normal(mean.double(), std.double()[:, None, None])
            expected = normal.log_prob(get["x"][i + 1].double()).mean((1, 2))
            torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(found.double(), get["log_prob"][i], atol=1e-3, rtol=0)
        mean, std, known = policy.step(x, i, none, lengths, known)
        fresh = torch.where(std > 0, 1 / std, 0)[:, None, None] * (get["x"][i + 1] - get["mean"][i])
        x = mean + std[:, None, None] * fresh
        torch.testing.assert_close(x, get["x"][i + 1], atol=1e-5, rtol=1e-5)


def test_the_spacing_of_dpm_solver_equals_the_reference():
    assert spaced_timesteps(1000, 10, "dpm") == SDE[2]["scaled_linear_sample/order2/timesteps"].tolist()
    assert spaced_timesteps(50, 10, "trailing") == SDE[2]["linear_sample_T50/order2/timesteps"].tolist()


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "dpm", [48, 30, 29, 10, 3]])
@pytest.mark.parametrize("solver", SOLVERS)
def test_each_step_begins_where_the_last_one_ended(spacing, solver):
    policy = DiffusionPolicy(MotionDenoiser(FEATURES, 16, 1, 2, 24), FakeEncoder(), 5, spacing=spacing, solver=solver)
    kept = NoiseSchedule.cosine(50).alphas_cumprod
    assert torch.equal(policy.alphas, kept[policy.timesteps])
    assert torch.equal(policy.alphas_next, torch.cat([kept[policy.timesteps[1:]], kept.new_ones(1)]))


# ---------------------------------------------------------------- one decision process, whatever the network


def transformer(**kind):
    return MotionDenoiser(FEATURES, 16, 1, 2, 24, text_width=WORDS, **kind)


def unet(**kind):
    return MotionUNet(FEATURES, (32, 32), 8, 8, 1, 2, 8, text_width=WORDS, **kind)


def latent(**kind):
    return LatentDenoiser(FEATURES, 2, 8, 1, 2, 12, 1, text_width=WORDS, **kind)


ARCHITECTURES = {"transformer": transformer, "unet": unet, "latent": latent}
RANDOM = {"ddpm": None, "ddim": 0.5, "sde-dpmsolver++": None, "sde-dpmsolver++2m": None}
combinations = pytest.mark.parametrize("prediction", ["x0", "noise", "v"])
for name, values in (("solver", list(RANDOM)), ("architecture", list(ARCHITECTURES))):
    combinations = (lambda one, two: lambda function: one(two(function)))(
        pytest.mark.parametrize(name, values), combinations
    )


def build(architecture: str, prediction: str, solver: str, eta: float | None = None, **changes) -> DiffusionPolicy:
    torch.manual_seed(0)
    schedule = "linear" if prediction == "noise" else "cosine"  # whose last alpha-bar would magnify rounding 700 times
    denoiser = ARCHITECTURES[architecture](prediction=prediction, schedule=schedule)
    for parameter in denoiser.parameters():  # layers that begin at zero would give the same prediction whatever they see
        parameter.data += 0.05 * torch.randn_like(parameter)
    denoiser.set_statistics(torch.arange(7.0), torch.linspace(0.5, 2, 7))
    return DiffusionPolicy(denoiser, FakeEncoder(), steps=5, eta=eta, solver=solver, **changes)


def count_up(motion, lengths, prompts):
    "A reward: the mean of the first feature."
    return motion[..., 0].sum(1) / lengths


@combinations
def test_every_policy_scores_its_own_trajectory_exactly_and_learns(architecture, solver, prediction):
    policy = build(architecture, prediction, solver, RANDOM[solver])
    trajectory = policy.rollout(PROMPTS, LENGTHS, torch.Generator().manual_seed(1))
    assert trajectory.motion.shape == (3, 9, FEATURES) and not trajectory.motion[1, 5:].any()
    with torch.no_grad():
        assert torch.equal(policy.log_prob(trajectory), trajectory.log_probs), "ratio 1, to the bit"
        double = build(architecture, prediction, solver, RANDOM[solver])  # all steps at once are another batch, which
        double.denoiser.double()  # rounds otherwise: in double precision nothing else may be left
        exact = double.rollout(PROMPTS, LENGTHS, torch.Generator().manual_seed(1))
        folded = double.log_prob(exact, fold=True) - exact.log_probs
    torch.testing.assert_close(folded, torch.zeros_like(folded), atol=1e-12, rtol=0)

    before = [p.detach().clone() for p in policy.denoiser.parameters()]
    config = ddpo.DDPOConfig(
        iterations=1, prompts_per_iteration=2, motions_per_prompt=3, distillation_weight=0.0, lora_rank=0, learning_rate=1e-2
    )
    trainer = ddpo.DDPOTrainer(policy, count_up, PROMPTS, torch.tensor(LENGTHS), config)
    (record,) = trainer.run(progress=False)
    for ratio in record["ratio"]:  # before the first update nothing has changed, but batches of other sizes round otherwise
        assert ratio is None or ratio < 1e-6
    moved = [not torch.equal(a, b) for a, b in zip(before, policy.denoiser.parameters(), strict=True)]
    assert any(moved)
    again = policy.log_prob(trajectory)
    assert torch.isfinite(again).all() and not torch.equal(again[:, :-1], trajectory.log_probs[:, :-1])


@combinations
def test_log_probs_are_those_of_torchs_normal(architecture, solver, prediction):
    policy = build(architecture, prediction, solver, RANDOM[solver])
    trajectory = policy.rollout(PROMPTS, LENGTHS, torch.Generator().manual_seed(1))
    rows, predictions = policy.denoiser.state_lengths(trajectory.lengths), [None, *trajectory.predicted_x0]
    for i in range(policy.steps - 1):
        with torch.no_grad():
            mean, std, _ = policy.step(trajectory.states[i], i, trajectory.text, trajectory.lengths, predictions[i])
        for b in range(3):
            normal = torch.distributions.Normal(mean[b, : rows[b]].double(), std[b].double())
            expected = normal.log_prob(trajectory.states[i + 1, b, : rows[b]].double()).mean()
            assert float(trajectory.log_probs[b, i]) == pytest.approx(float(expected), abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("advantage", ["branching", "per_step", "group"])
def test_the_trainer_of_every_advantage_runs_on_every_architecture(architecture, advantage):
    policy = build(architecture, "x0", "sde-dpmsolver++2m")
    config = ddpo.DDPOConfig(
        iterations=2, prompts_per_iteration=2, motions_per_prompt=3, advantage=advantage, inner_epochs=2, kl_weight=0.1,
        distillation_batch=4, lora_rank=2, select_every=1,
    )
    trainer = ddpo.DDPOTrainer(
        policy, count_up, PROMPTS, torch.tensor(LENGTHS), config, ["someone sits", "a person bows"],
        selector=lambda policy: {"score": 0.0},
    )
    log = trainer.run(progress=False)
    assert all(np.isfinite(record["distillation"]) and record["distillation"] >= 0 for record in log)
    assert all(any(norm for norm in record["gradient_norm"] if norm) for record in log)


@pytest.mark.parametrize("solver", ["dpmsolver++", "dpmsolver++2m", "ddim"])
def test_a_solver_without_noise_is_refused_with_the_reason(solver):
    policy = build("transformer", "x0", solver, 0.0)
    trajectory = policy.rollout(PROMPTS, LENGTHS, torch.Generator().manual_seed(1))
    assert torch.equal(trajectory.log_probs, torch.zeros(3, 5))
    with pytest.raises(ValueError, match="eta 0.*no density|none has a density"):
        policy.log_prob(trajectory)
    with pytest.raises(UserError, match="deterministic: there is no density to train"):
        config = ddpo.DDPOConfig(distillation_weight=0.0)
        ddpo.DDPOTrainer(policy, count_up, PROMPTS, torch.tensor(LENGTHS), config)


def test_a_deterministic_trajectory_of_second_order_equals_the_diffusers_scheduler():
    diffusers = pytest.importorskip("diffusers")
    policy = build("transformer", "x0", "dpmsolver++2m", spacing="dpm")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        50, beta_schedule="squaredcos_cap_v2", prediction_type="sample", algorithm_type="dpmsolver++", solver_order=2
    )
    scheduler.set_timesteps(policy.steps)
    trajectory = policy.rollout(PROMPTS, LENGTHS, torch.Generator().manual_seed(1))
    assert scheduler.timesteps.tolist() == trajectory.timesteps.tolist()
    x = trajectory.states[0]
    for i, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            output = policy.denoiser.guided(x, t.expand(3), trajectory.text, trajectory.lengths, 2.5)
        x = scheduler.step(output, t, x).prev_sample
        torch.testing.assert_close(trajectory.states[i + 1], x, atol=1e-4, rtol=1e-4)


def test_what_a_solver_cannot_be_is_named():
    with pytest.raises(UserError, match="no solver 'sde-dpmsolver'; did you mean 'sde-dpmsolver\\+\\+'\\?"):
        find_solver("sde-dpmsolver")
    with pytest.raises(UserError, match="no solver 'euler'; they are ddpm, ddim"):
        build("transformer", "x0", "euler")
    with pytest.raises(UserError, match="ddpm has eta 1 by definition, not 0.5"):
        find_solver("ddpm", 0.5)
    for timesteps in ([49, 30, 30, 10, 0], [50, 30, 20, 10, 0], [49, 30], [10, 20, 30, 40, 49]):
        with pytest.raises(ValueError, match="5 steps needs 5 timesteps between 0 and 49"):
            build("transformer", "x0", "ddim", spacing=timesteps)
    policy = build("transformer", "x0", "sde-dpmsolver++2m")
    text = FakeEncoder()(PROMPTS)
    with pytest.raises(ValueError, match="multistep: step 2 needs the prediction before it"):
        policy.step(torch.randn(3, 9, FEATURES), 2, text, torch.tensor(LENGTHS))


@pytest.fixture
def registered():
    "Samplers that a test adds are gone after it."
    known = dict(SOLVERS)
    yield
    SOLVERS.clear()
    SOLVERS.update(known)


@pytest.mark.parametrize("multistep", [False, True])
def test_a_sampler_of_ones_own_is_one_function(registered, multistep):
    @register_sampler("toy", multistep=multistep)
    def toy(plan, step, x_t, x0, history):
        assert len(history) == int(multistep and bool(step.any()))
        at = plan.alphas[step]
        noise = (x_t - per_motion(at.sqrt(), x_t) * x0) / per_motion((1 - at).sqrt(), x_t)
        mean, std = ddim_distribution(x0, noise, at, plan.alphas_next[step], 1.0)
        change = x0 - history[-1] if history else 0 * x0
        return mean + per_motion(torch.where(step == 0, 0.0, 0.1), x0) * change, std

    policy = build("transformer", "x0", "toy")
    trajectory = policy.rollout(PROMPTS, LENGTHS, torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(policy.log_prob(trajectory), trajectory.log_probs)
        torch.testing.assert_close(policy.log_prob(trajectory, fold=True), trajectory.log_probs, atol=1e-5, rtol=1e-5)
    plain = build("transformer", "x0", "ddpm")
    torch.testing.assert_close(policy.stds, plain.stds)
    forecast = torch.tensor([0, 1, 1, 1, 1]) * 0.1 * multistep
    torch.testing.assert_close(policy.x0_coefficients, plain.x0_coefficients + forecast)
    if not multistep:
        assert torch.equal(trajectory.motion, plain.rollout(PROMPTS, LENGTHS, torch.Generator().manual_seed(1)).motion)
    with pytest.raises(UserError, match="there is a sampler 'toy' already"):
        register_sampler("toy")(toy)


@pytest.mark.parametrize("wrong", [lambda x0: (x0[:, 0], 0.1), lambda x0: (x0, x0), lambda x0: (x0, torch.ones(7))])
def test_a_sampler_that_returns_other_shapes_is_named_before_anything_is_sampled(registered, wrong):
    register_sampler("wrong")(lambda plan, step, x_t, x0, history: wrong(x0))
    with pytest.raises(UserError, match="the sampler should return a mean of shape"):
        build("transformer", "x0", "wrong")


def test_one_number_will_do_for_the_deviation(registered):
    register_sampler("steady")(lambda plan, step, x_t, x0, history: (x0, 0.5))
    plan = plan_sampling(NoiseSchedule.cosine(50), 5, "steady")
    assert plan.stds.tolist() == [0.5] * 5 and plan.x0_coefficients.tolist() == [1.0] * 5


def test_a_saved_denoiser_comes_back_as_what_it_was(tmp_path):
    from mocapfree_nb.models.registry import load_denoiser
    from mocapfree_nb.retrieval import RetrievalModel

    for name, kind in ARCHITECTURES.items():
        made = kind(prediction="v")
        made.save_pretrained(tmp_path / name)
        again = load_denoiser(tmp_path / name)
        assert type(again) is type(made) and again.prediction == "v"
        assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(UserError, match="holds a MotionUNet, not a MotionDenoiser"):
        MotionDenoiser.from_folder(tmp_path / "unet")
    config = json.loads((tmp_path / "transformer" / "config.json").read_text())
    del config["architecture"]  # as in folders from before the architecture was noted
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(config))
    assert isinstance(load_denoiser(tmp_path / "transformer"), MotionDenoiser)
    RetrievalModel(width=32, motion_layers=1, text_layers=1, feedforward=32).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="RetrievalModel"):
        load_denoiser(tmp_path / "other")


def test_lora_on_a_convolution_is_a_low_rank_change_of_its_kernel():
    layer = torch.nn.Conv1d(6, 4, 3)
    before = layer.weight.detach().clone()
    trained = lora.add_lora(layer, rank=2, alpha=4.0)
    assert torch.equal(layer.weight, before), "nothing changes until something is learnt"
    with torch.no_grad():
        for parameter in trained:
            parameter.normal_()
    lora.merge_lora(layer)
    change = (layer.weight - before).flatten(1)
    assert layer.weight.shape == before.shape and torch.linalg.matrix_rank(change) == 2
