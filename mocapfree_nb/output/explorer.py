"""An explorer that makes a reward felt: sliders edit a motion, and reward, evaluator and geometric check answer."""

# The machinery of lesson 14; `RewardQuestion` computes, `RewardExplorer` shows.

from collections.abc import Callable
from dataclasses import dataclass

import ipywidgets
import numpy as np
import torch
from torch import Tensor

from mocapfree_nb.edits import SIDES, bend_knees, lower_arms, shift_time, shrink_arms
from mocapfree_nb.evaluator import EvaluatorModel, embed_evaluator
from mocapfree_nb.features import features_to_joints
from mocapfree_nb.player import Chart
from mocapfree_nb.rewards import Reward, checked_scores
from mocapfree_nb.skeleton import HUMANML3D, skeleton_of
from mocapfree_nb.text import TextEncoder, text_encoder_of
from mocapfree_nb.validity import rebuild
from mocapfree_nb.verify import verify
from mocapfree_nb.widgets import MotionPlayer, PlayerBox

__all__ = ["Answer", "RewardQuestion", "RewardExplorer"]


@dataclass(frozen=True, eq=False)
class Answer:
    """What is said of one edited motion: joints (T, J, 3), reward, evaluator distance and check (None: not asked)."""

    joints: Tensor
    reward: float
    distance: float | None
    passes: bool | None

    def __str__(self) -> str:
        words = [f"reward {self.reward:.3f}"]
        words += [] if self.distance is None else [f"evaluator distance {self.distance:.2f}"]
        words += [] if self.passes is None else [f"check: {'passes' if self.passes else 'fails'}"]
        return ", ".join(words)


class RewardQuestion:
    """What reward, evaluator and check say of a motion, raw features (T, F), as a motion of `prompt`, edited or not.

    Calls take the share of the way to rest that each arm is lowered, the metres that the body sinks into its knees, the
    frames that it does everything later, and the share of its arms' length that is taken away. `evaluator` answers with its
    Euclidean distance (small is near). The check is of HumanML3D's joints: a label of `verify.CHECKS`, several with "+", or
    a function of joints (T, 22, 3).
    """

    def __init__(
        self,
        motion: Tensor | np.ndarray,
        prompt: str,
        reward: Reward,
        check: str | Callable | None = None,
        evaluator: EvaluatorModel | None = None,
        text_encoder: TextEncoder | None = None,
    ):
        motion = torch.as_tensor(motion).float()
        self.prompt, self.reward, self.check, self.evaluator = prompt, reward, check, evaluator
        self.skeleton = skeleton_of(motion.shape[-1])
        self.joints = features_to_joints(motion, self.skeleton)
        self.lengths = torch.tensor([len(motion)])
        if evaluator is not None:
            encoder = text_encoder or text_encoder_of(evaluator)
            with torch.no_grad():
                self._text = evaluator.encode_text(encoder([prompt]).to(evaluator.feature_mean.device))

    def edited(self, left: float = 0.0, right: float = 0.0, knees: float = 0.0, shift: int = 0, shrink: float = 0.0) -> Tensor:
        """Joints (T, J, 3) of the motion with arms shortened and lowered, knees bent and time shifted."""
        joints = shrink_arms(self.joints, shrink, skeleton=self.skeleton) if shrink else self.joints
        for side, share in zip(SIDES, (left, right), strict=True):
            joints = lower_arms(joints, share, (side,), self.skeleton) if share else joints
        depth = knees * (1000 if self.skeleton.unit == "mm" else 1)
        return shift_time(bend_knees(joints, depth, self.skeleton) if knees else joints, shift)

    def __call__(self, left: float = 0.0, right: float = 0.0, knees: float = 0.0, shift: int = 0, shrink: float = 0.0) -> Answer:
        """The answers to the motion edited like this."""
        joints = self.edited(left, right, knees, shift, shrink)
        motion = rebuild(joints[None], self.lengths, self.skeleton)
        reward = float(checked_scores(self.reward, motion, self.lengths, [self.prompt]))
        distance = passes = None
        if self.evaluator is not None:
            distance = float((embed_evaluator(self.evaluator, motion, self.lengths) - self._text).norm())
        if self.check is not None and self.skeleton is HUMANML3D:
            passes = bool(verify(joints, self.check))
        return Answer(joints, reward, distance, passes)


SLIDERS = {  # name: its words, largest value, step
    "left": ("lower the left arm", 1.0, 0.05),
    "right": ("lower the right arm", 1.0, 0.05),
    "knees": ("bend the knees, m", 0.5, 0.02),
    "shift": ("do it later, frames", 20, 1),
    "shrink": ("shrink the arms", 0.8, 0.05),
}


class RewardExplorer(PlayerBox):
    """Sliders over two players: the motion as it was, and edited; the answers under each, live where there is a kernel.

    Arguments as for `RewardQuestion`. `sliders` holds one widget for each of `SLIDERS`; a saved notebook keeps the players.
    """

    def __init__(self, *arguments, **options):
        self.question = RewardQuestion(*arguments, **options)
        self.first = self.answer = self.question()
        self.rewards = [self.first.reward]
        self.player = MotionPlayer(**self._scene(), skeleton=self.question.skeleton)
        self.sliders = {name: self._slider(*words) for name, words in SLIDERS.items()}
        super().__init__([*self.sliders.values(), self.player])

    def _slider(self, words: str, most: float, step: float) -> ipywidgets.Widget:
        kind = ipywidgets.IntSlider if isinstance(most, int) else ipywidgets.FloatSlider
        least = -most if isinstance(most, int) else 0.0
        style, layout = {"description_width": "11em"}, {"width": "32em"}
        slider = kind(value=0, min=least, max=most, step=step, description=words, style=style, layout=layout)
        slider.observe(self._ask, "value")
        return slider

    def _ask(self, _change: dict) -> None:
        """A slider was moved."""
        self.answer = self.question(**{name: slider.value for name, slider in self.sliders.items()})
        self.rewards = [*self.rewards, self.answer.reward][-200:]
        self.player.show(**self._scene())

    def _scene(self) -> dict:
        shown = {"as it was": self.first, "edited": self.answer}
        return {
            "motions": {name: answer.joints for name, answer in shown.items()},
            "captions": {name: str(answer) for name, answer in shown.items()},
            "title": self.question.prompt,
            "charts": [Chart({"reward": self.rewards}, along="change")],
        }
