"""Networks as folders: `config.json` and `model.safetensors`, every name, shape and number checked on the way in."""

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .files import MEBIBYTE, UserError, is_folder, printable, reason, write_atomically, write_json
from .reading import check_finite, read_json, read_tensors, tensor_fault

__all__ = ["NOTES", "PretrainedModel", "settings_of", "check_settings", "build_network"]


def settings_of(network: type[nn.Module]) -> dict[str, inspect.Parameter]:
    """The constructor's arguments by name."""
    # of the class itself, Python before 3.11.4 gives the arguments of a base class
    return {name: p for name, p in inspect.signature(network.__init__).parameters.items() if name != "self"}


def check_settings(network: type[nn.Module], settings: Mapping, where: str) -> None:
    """Raise `UserError` for constructor arguments that `network` does not have, of another type, or of absurd size."""
    known = settings_of(network)
    for name, value in settings.items():
        if name not in known:
            few = ", ".join(sorted(known))
            raise UserError(f"{where}: {network.__name__} has no setting {printable(name, 60)!r}; there are {few}")
        here = f"{where}: {name}"
        _check_range(name, value, here)
        default, annotation = known[name].default, known[name].annotation
        kind = annotation if default is inspect.Parameter.empty else type(default)
        accepted = {float: (int, float), tuple: (list, tuple)}.get(kind, kind)
        wrong = kind in (bool, int, float, str, tuple, list) and not isinstance(value, accepted)
        if wrong or (isinstance(value, bool) and kind in (int, float)):
            given = f"{printable(repr(value), 60)} ({type(value).__name__})"
            raise UserError(f"{here} is {given}; {kind.__name__} is expected")
        if isinstance(value, list | tuple):
            if len(value) > 16:
                raise UserError(f"{here} has {len(value)} numbers; at most 16 are expected")
            for number in value:
                if type(number) is not int:
                    raise UserError(f"{here} holds {printable(repr(number), 60)}; whole numbers are expected")
                _check_range(name, number, here)


def _check_range(name: str, value: object, here: str) -> None:
    """Raise `UserError` for a number that no network of this kind has."""
    least, most = (0, 512) if "layers" in name else (1, 512) if name == "heads" else (0, 100_000)
    if name == "dropout":
        most = 0.999
    if isinstance(value, int | float) and not least <= value <= most:
        raise UserError(f"{here} {value} is out of range ({least} to {most})")


def build_network(
    network: type[nn.Module],
    settings: Mapping,
    weights: Mapping[str, Tensor],
    where: str,
    optional: Sequence[str] = (),  # buffers that may be missing
) -> nn.Module:
    """Build `network(**settings)` with these weights, in eval mode.

    Every array must have its place and every place its array (but for `optional`), of one shape, and be finite. The
    network is laid out without memory first, so settings that do not fit the weights cost nothing.
    """
    check_settings(network, settings, where)
    try:
        with torch.device("meta"):
            wanted = network(**settings).state_dict()
    except UserError as error:
        raise UserError(f"{where}: {printable(error, 600)}") from error
    except Exception as error:  # settings that contradict each other fail in many ways
        given = printable(dict(settings))
        raise UserError(f"{where}: no {network.__name__} can be built with {given} ({reason(error)})") from error
    if differences := _differences(wanted, weights, optional):
        raise UserError(f"{where} does not fit {network.__name__}: {'; '.join(differences)}")
    for name, value in weights.items():
        if fault := tensor_fault(value):
            raise UserError(f"{where}: {name} {fault}")
    check_finite(weights, where)
    model = network(**settings)
    numbers = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    check_finite(numbers, where)  # double precision may not fit into single
    model.load_state_dict(numbers, strict=False)
    return model.eval()


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], optional: Sequence[str]) -> list[str]:
    """What is missing, left over, or of another shape, a phrase each."""

    def some(names: list[str]) -> str:
        return printable(", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""))

    missing = [name for name in wanted if name not in given and name not in optional]
    extra = [name for name in given if name not in wanted]
    other = [
        f"{name} {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    phrases = ((missing, "missing"), (extra, "left over"), (other, "of another shape"))
    return [f"{len(names)} {what}: {some(names)}" for names, what in phrases if names]


# what the mixin hands on beside the settings of the network
_HUB = {"revision", "cache_dir", "force_download", "proxies", "resume_download", "local_files_only", "token", "strict"}


NOTES = ("text_encoder", "left_out")  # of a `config.json`, beside its class and what that is constructed with


def _encoder_config(value: object, where: str) -> dict | None:
    """What a `config.json` says of the text encoder: a name and plain settings, or nothing."""
    plain = isinstance(value, dict) and all(isinstance(v, str | int | float | bool) for v in value.values())
    if value is not None and not (plain and isinstance(value.get("name"), str) and len(value) <= 16):
        raise UserError(f'{where}: text_encoder is {printable(repr(value), 60)}; {{"name": ..., ...}} is expected')
    return value


def _labels(value: object, where: str) -> tuple[str, ...]:
    """What a `config.json` says of actions left out: labels, or nothing."""
    if value is not None and not (isinstance(value, list) and all(isinstance(label, str) for label in value)):
        raise UserError(f"{where}: left_out is {printable(repr(value), 60)}; a list of labels is expected")
    return tuple(value or ())


class PretrainedModel(nn.Module, PyTorchModelHubMixin):
    """A network that saves as a folder: `config.json` (its class, constructor arguments) and `model.safetensors`.

    `from_pretrained` on a local folder checks every name and shape and raises `UserError` with one line;
    any other string is taken as the name of a model on the Hugging Face hub.
    """

    # name and settings of the text encoder that it reads, saved as "text_encoder"; None is MiniLM
    text_encoder_config: dict | None = None
    left_out: tuple[str, ...] = ()  # labels of a corpus whose clips its training lacked, saved under the same name

    def save_pretrained(
        self, save_directory: str | os.PathLike, *, config: dict | None = None, model_card_kwargs: dict | None = None
    ):
        """Write weights and then `config.json`, with the name of the class as "architecture", each whole or not at all.

        The mixin's own deletes the old `config.json` first: a full disk would lose the model. Its `push_to_hub` calls
        this one with `model_card_kwargs`; the cards of this kit are written by hand. Raises `UserError` for weights
        that are not finite, and while LoRA is on them, as in the middle of a training: nothing could read their names.
        """
        if any(parametrize.is_parametrized(module) for module in self.modules()):
            raise UserError("this network is being trained (LoRA is on it): let the training end, or merge_lora(network) first")
        self._save_pretrained(Path(save_directory))
        config = {"architecture": type(self).__name__} | (config or self._hub_mixin_config or {})
        if self.text_encoder_config:
            config["text_encoder"] = self.text_encoder_config
        if self.left_out:
            config["left_out"] = list(self.left_out)
        write_json(Path(save_directory) / "config.json", config)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **options):
        """Of a folder `from_folder`, which the options of the mixin do not concern; else from the hub."""
        if is_folder(name):
            return cls.from_folder(name, options.get("map_location", "cpu"))
        return super().from_pretrained(name, **options)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", architecture: str | None = None, **options):
        """From the hub; the mixin alone would pass weights over that are missing or of another name, and NaN."""
        encoder = _encoder_config(options.pop("text_encoder", None), printable(model_id))
        left_out = _labels(options.pop("left_out", None), printable(model_id))
        check_settings(cls, {name: value for name, value in options.items() if name not in _HUB}, printable(model_id))
        model = super()._from_pretrained(model_id=model_id, map_location=map_location, **options | {"strict": True})
        check_finite(model.state_dict(), printable(model_id))
        model.text_encoder_config, model.left_out = encoder, left_out
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        check_finite(weights, printable(save_directory / "model.safetensors"))
        with write_atomically(save_directory / "model.safetensors") as temporary:
            try:
                save_file(weights, temporary)
            except SafetensorError as error:  # a full disk surfaces as this, not as OSError
                raise OSError(str(error)) from error

    @classmethod
    def from_folder(cls, folder: str | os.PathLike, device: str = "cpu"):
        """Rebuild the network from a local folder, in eval mode on `device`."""
        folder = Path(folder)
        name = printable(folder)
        if not is_folder(folder):
            raise UserError(f"no model at {name}: give a folder with config.json and model.safetensors")
        config = read_json(folder / "config.json", MEBIBYTE)
        architecture = config.pop("architecture", cls.__name__)  # folders of before this was noted have none
        if architecture != cls.__name__:
            raise UserError(f"{name} holds a {printable(architecture, 60)}, not a {cls.__name__}")
        encoder, left_out = _encoder_config(config.pop("text_encoder", None), name), _labels(config.pop("left_out", None), name)
        weights = read_tensors(folder / "model.safetensors")
        model = build_network(cls, config, weights, name).to(device)
        model.text_encoder_config, model.left_out = encoder, left_out
        return model
