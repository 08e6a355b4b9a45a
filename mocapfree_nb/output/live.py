"""Watching a run: a player in the notebook that shows the newest sample beside the first."""

import math

from torch import Tensor

from mocapfree_nb.callbacks import Callback
from mocapfree_nb.features import features_to_joints
from mocapfree_nb.player import Chart
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.skeleton import skeleton_of
from mocapfree_nb.widgets import MotionPlayer

__all__ = ["TrainingView"]


class TrainingView(Callback):
    """A player that follows a run: `display(view.player)`, then `trainer.run(view)`.

    Every `every` iterations (and when it is made) it generates `prompt` with `length` frames of motion from one seed.
    It takes no random number from the run, so a run that is watched does the same as one that is not.
    """

    def __init__(self, policy: DiffusionPolicy, prompt: str, length: int, every: int = 1, seed: int = 0):
        self.policy, self.prompt, self.length, self.every, self.seed = policy, prompt, length, every, seed
        self.skeleton = skeleton_of(policy.denoiser.num_features)
        self.rewards: list[float] = []
        self.before = self.now = self.sample()
        self.player = MotionPlayer({"before": self.before}, self.skeleton, title=prompt)

    def sample(self) -> Tensor:
        """Joints (length, joints, 3) of the prompt under the weights as they are."""
        motion = self.policy.generate([self.prompt], [self.length], seed=self.seed)
        return features_to_joints(motion, self.skeleton)[0]

    def on_iteration(self, record: dict) -> None:
        """Show what an iteration's record says, and the newest sample."""
        self.rewards.append(record["reward"])
        if record["iteration"] % self.every == 0:
            self.now = self.sample()
        charts = [Chart({"reward": self.rewards}, along="iteration", first=record["iteration"] + 1 - len(self.rewards))]
        clipped = [math.nan if share is None else share for share in record.get("clip_share", ())]  # not every algorithm clips
        if any(share > 0 for share in clipped):  # with one update a rollout none is: a flat line would say nothing
            charts.append(Chart({"share of ratios clipped": clipped}, along="denoising step"))
        name = f"after {record['iteration']} iterations"
        self.player.show(
            {"before": self.before, name: self.now},
            captions={name: f"mean reward {record['reward']:.3f}"},
            title=self.prompt,
            charts=charts,
        )
