"""Settings from the command line and from files: `--set KEY=VALUE` and `--config FILE` for any setting of the algorithm."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path

from mocapfree_nb.files import UserError

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def _known(algorithm: str) -> dict[str, type]:
    """The settings of an algorithm and their types, those that algorithms share last."""
    from mocapfree_nb.learning import find_algorithm
    from mocapfree_nb.regularisers import Regularisers

    shared = {field.name for field in fields(Regularisers)}
    found = sorted(fields(find_algorithm(algorithm)), key=lambda field: field.name in shared)
    return {field.name: type(field.default) for field in found}


def _have(key: str) -> list[str]:
    """The algorithms that have a setting `key`."""
    from mocapfree_nb.learning import ALGORITHMS

    return [name for name, kind in ALGORITHMS.items() if key in {field.name for field in fields(kind)}]


def _check_key(key: str, where: str, known: Mapping[str, type]) -> None:
    if key not in known:
        near = get_close_matches(key, known, 1, 0.5)
        there = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        there = f"other algorithms have it: {', '.join(have)}" if (have := _have(key)) else there
        raise UserError(f"{where}: there is no setting {key!r}; {there}")


def _read(text: str, kind: type) -> object:
    """A word of the command line as a value; `ValueError` for one of another type."""
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    return kind(text)


def parse_pair(pair: str, algorithm: str) -> tuple[str, list]:
    """"key=value" or "key=value,value" to the key and its values. Raises `UserError` that names the nearest key."""
    known, (key, equals, text) = _known(algorithm), pair.partition("=")
    if not equals or not text:
        raise UserError(f"--set wants KEY=VALUE, not {pair!r}")
    _check_key(key, f"--set {pair}", known)
    try:
        return key, [_read(part, known[key]) for part in text.split(",")]
    except (ValueError, KeyError) as error:
        raise UserError(f"--set {pair}: {key} is {KINDS[known[key]]}, not {text!r}") from error


def read_config(path: Path, algorithm: str) -> dict:
    """The settings in a file of JSON or TOML, checked like those of `--set`."""
    from mocapfree_nb.reading import read_json, read_text

    if path.suffix == ".toml":
        try:
            found = tomllib.loads(read_text(path))
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{path} is not TOML: {error}") from error
    else:
        found = read_json(path)
    known = _known(algorithm)
    for key, value in found.items():
        _check_key(str(key), str(path), known)
        wanted = (int, float) if known[key] is float else known[key]
        if not isinstance(value, wanted) or isinstance(value, bool) != (known[key] is bool):
            raise UserError(f"{path}: {key} is {KINDS[known[key]]}, not {value!r}")
    return {key: float(value) if known[key] is float else value for key, value in found.items()}


def read_settings(
    algorithm: str, pairs: list[str] | None, config: Path | None = None, iterations: int | None = None
) -> dict:
    """Settings of a run: those of a file, then those of `--set`, then `--iterations`; the later ones win."""
    settings = read_config(config, algorithm) if config else {}
    for pair in pairs or ():
        key, values = parse_pair(pair, algorithm)
        if len(values) > 1:
            raise UserError(f"--set {pair}: one value here; several with commas between are for mocapfree sweep")
        settings[key] = values[0]
    counted = "rounds" if algorithm == "exploration" else "iterations"
    return settings | ({counted: iterations} if iterations else {})
