"""On a GPU: the same motions as on the CPU, ratios of 1, resumes, and memory that fits. Skipped where there is none."""

import copy

import pytest
import torch
from small_policy import height, make_policy

from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.exploration import ExploreConfig
from mocapfree_nb.files import WEIGHTS
from mocapfree_nb.models.mdm import MDM
from mocapfree_nb.models.registry import load_policy
from mocapfree_nb.off_policy import LearnConfig, explore_and_learn
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.pretrain import PretrainConfig, pretrain
from mocapfree_nb.retrieval import RetrievalModel
from mocapfree_nb.rewards import RetrievalReward
from mocapfree_nb.text import TextEmbedding

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
PROMPTS = ["a person walks", "a person waves with the left hand", "someone jumps", "a man squats"]
LENGTHS = torch.tensor([40, 44, 48, 36])


@pytest.fixture(autouse=True)
def full_precision():
    "TensorFloat-32 would blur the comparison with the CPU."
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def on_gpu(policy):
    return policy.with_denoiser(copy.deepcopy(policy.denoiser).cuda())


@pytest.mark.parametrize("name", ["denoiser", "unet", "latent"])
def test_a_shipped_model_makes_the_motion_that_it_makes_on_the_cpu(name):
    cpu, gpu = (load_policy(WEIGHTS / name, device=device) for device in ("cpu", "cuda"))
    one, other = (policy.generate(PROMPTS, LENGTHS, seed=3) for policy in (cpu, gpu))
    assert other.device.type == "cuda"
    torch.testing.assert_close(one, other.cpu(), rtol=1e-3, atol=1e-3)


def test_reward_and_log_probabilities_are_those_of_the_cpu():
    cpu = make_policy()
    gpu = on_gpu(cpu)
    one, other = (policy.rollout(PROMPTS, LENGTHS, torch.Generator().manual_seed(0)) for policy in (cpu, gpu))
    torch.testing.assert_close(one.log_probs, other.log_probs.cpu(), rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    network = RetrievalModel().eval()
    scores = RetrievalReward(network)(one.motion, LENGTHS, PROMPTS)
    again = RetrievalReward(copy.deepcopy(network).cuda())(one.motion.cuda(), LENGTHS.cuda(), PROMPTS)
    torch.testing.assert_close(scores, again.cpu(), rtol=1e-4, atol=1e-4)


def test_ddpo_learns_there_with_ratios_of_one_and_resumes_to_the_same_weights(tmp_path):
    def trainer(iterations, folder):
        config = DDPOConfig(
            iterations=4, prompts_per_iteration=4, motions_per_prompt=4, distillation_batch=4, lora_rank=2, lora_alpha=4.0
        )
        made = DDPOTrainer(on_gpu(make_policy()), height, PROMPTS, LENGTHS, config, PROMPTS, folder=tmp_path / folder)
        for _ in range(iterations):  # each audits that its first ratios are 1
            made.iterate()
        return made

    whole = trainer(4, "whole")
    trainer(2, "stopped")
    resumed = trainer(2, "stopped")
    assert len(resumed.log) == 4
    for one, other in zip(whole.parameters, resumed.parameters, strict=True):
        assert one.device.type == "cuda"
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_pretraining_with_dropout_resumes_to_the_same_weights_and_leaves_the_users_generator_alone(tmp_path):
    corpus = load_corpus(num_clips=60).split("train")
    config = PretrainConfig(steps=6, batch_size=8, warmup_steps=2)

    def train(checkpoint=None, stop_at=None):
        def stop(step, loss):
            if step == stop_at:
                raise KeyboardInterrupt

        torch.manual_seed(0)
        denoiser = MotionDenoiser(width=32, layers=1, heads=2, feedforward=32, frames_per_token=4, dropout=0.1).cuda()
        before = torch.cuda.get_rng_state()
        settings = {"checkpoint": checkpoint, "checkpoint_every": 3, "on_step": stop, "progress": False}
        model = pretrain(denoiser, corpus, config, **settings)
        assert torch.equal(before, torch.cuda.get_rng_state())
        return model

    whole, checkpoint = train(), tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, stop_at=4)
    resumed = train(checkpoint)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_exploration_runs_there():
    policy = load_policy(WEIGHTS / "denoiser-leave-one-out", device="cuda")
    reward = RetrievalReward(RetrievalModel.from_pretrained(WEIGHTS / "retrieval").cuda())
    known = list(zip(PROMPTS, LENGTHS.tolist(), strict=True))
    small = LearnConfig(rounds=1, steps=3), ExploreConfig(prompts=2, pool=4, proposals=8, near=3)
    log = explore_and_learn(policy, reward, ["a person raises both arms"] * 2, known, known, *small, progress=False)
    assert log[0]["proposals"] == 16
    assert policy.denoiser.feature_mean.device.type == "cuda"


def test_a_model_of_mdm_size_rolls_out_and_learns_in_eight_gigabytes():
    torch.manual_seed(0)
    text = TextEmbedding(torch.randn(1, 1, 512), torch.ones(1, 1, dtype=torch.bool), torch.randn(1, 512))

    def encode(prompts):
        return text[[0] * len(prompts)]

    encode.width = 512
    policy = DiffusionPolicy(MDM().cuda(), encode, steps=10)
    torch.cuda.reset_peak_memory_stats()
    config = DDPOConfig(iterations=1, prompts_per_iteration=16, motions_per_prompt=4, distillation_weight=0.0)
    DDPOTrainer(policy, height, PROMPTS, torch.tensor([196]), config).run(progress=False)
    assert torch.cuda.max_memory_allocated() < 8 * 2**30
