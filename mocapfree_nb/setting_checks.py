"""The numbers of a dataclass of settings: plain ones, and none that cannot be meant."""

import math
import numbers
import operator
from collections.abc import Iterable, Mapping

import numpy as np

from mocapfree_nb.files import UserError

__all__ = ["check_settings"]


def check_settings(
    config: object,
    whole: Mapping[str, int],
    positive: Iterable[str] = (),
    not_negative: Iterable[str] = (),
    shares: Iterable[str] = (),
    flags: Iterable[str] = (),
) -> None:
    """Turn the numbers of a frozen dataclass into plain ones; raise `UserError` for one that cannot be meant.

    `whole` maps integers (below 2**63) to the least they may be. All others are finite: `positive` above 0,
    `not_negative` 0 or more, `shares` from 0 to 1. `flags` are True or False.
    """
    kinds = dict.fromkeys(positive, "above 0") | dict.fromkeys(not_negative, "0 or more") | dict.fromkeys(shares, "from 0 to 1")
    for name, least in whole.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= value < 2**63:
            raise UserError(f"{name} should be at least {least}, a whole number below 2**63, not {value!r}")
        object.__setattr__(config, name, operator.index(value))
    for name, kind in kinds.items():
        value = getattr(config, name)
        number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
        within = {"above 0": number > 0, "0 or more": number >= 0, "from 0 to 1": 0 <= number <= 1}[kind]
        if not (math.isfinite(number) and within):
            raise UserError(f"{name} should be a finite number, {kind}, not {value!r}")
        object.__setattr__(config, name, number)
    for name in flags:
        if not isinstance(value := getattr(config, name), bool | np.bool_):
            raise UserError(f"{name} should be True or False, not {value!r}")
        object.__setattr__(config, name, bool(value))
