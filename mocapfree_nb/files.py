"""Files the safe way: whole or not at all, never a pickle, and errors a user can act on."""

import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

__all__ = [
    "WEIGHTS", "UserError", "PretrainedModel", "write_atomically", "save_state", "load_array", "read_json", "write_json",
    "cache_folder",
]

WEIGHTS = Path(__file__).parent / "weights"  # the small networks that ship with the package


class UserError(Exception):
    """A mistake that the user can mend: the message says what, where, and what to do.

    The command line prints it as one line and exits with status 1, without a traceback.
    """


@contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place only if the block succeeds.

    A full disk or Ctrl-C in the middle leaves whatever was at `path` before, untouched.
    Raises `UserError` when the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; what was there before is untouched"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def save_state(path: str | os.PathLike, state: dict) -> None:
    """`torch.save` a dict of tensors and plain values, atomically.

    It is put together in memory first: on a full disk `torch.save` itself raises an error that does not say so.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with write_atomically(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> dict:
    """Read a JSON object; raise `UserError` where there is none."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); it may be truncated") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold a JSON object, not a {type(value).__name__}")
    return value


def load_array(path: str | os.PathLike) -> np.ndarray:
    """Load one `.npy` array, refusing pickled objects; raise `UserError` if it cannot be read."""
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged header can raise anything, a MemoryError too; the remedy is one
        raise UserError(f"{path} is not a plain .npy array ({error})") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} holds several arrays; a single .npy array is expected")
    return array


class PretrainedModel(nn.Module, PyTorchModelHubMixin):
    """A network that saves as a folder: `config.json` (its class, constructor arguments) and `model.safetensors`.

    `from_pretrained` on a local folder checks every name and shape and raises `UserError` with one line;
    any other string is taken as the name of a model on the Hugging Face hub.
    """

    def save_pretrained(
        self, save_directory: str | os.PathLike, *, config: dict | None = None, model_card_kwargs: dict | None = None
    ):
        """Write weights and then `config.json`, with the name of the class as "architecture", each whole or not at all.

        The mixin's own deletes the old `config.json` first: a full disk would lose the model. Its `push_to_hub` calls
        this one with `model_card_kwargs`; the cards of this kit are written by hand.
        """
        self._save_pretrained(Path(save_directory))
        config = {"architecture": type(self).__name__} | (config or self._hub_mixin_config or {})
        write_json(Path(save_directory) / "config.json", config)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", architecture: str | None = None, **options):
        """Of a folder, `from_folder`; the mixin alone would pass weights over that are missing or of another name."""
        if Path(model_id).is_dir():
            return cls.from_folder(model_id, map_location)
        return super()._from_pretrained(model_id=model_id, map_location=map_location, **options | {"strict": True})

    def _save_pretrained(self, save_directory: Path) -> None:
        with write_atomically(Path(save_directory) / "model.safetensors") as temporary:
            try:
                save_file({k: v.contiguous() for k, v in self.state_dict().items()}, temporary)
            except SafetensorError as error:  # a full disk surfaces as this, not as OSError
                raise OSError(str(error)) from error

    @classmethod
    def from_folder(cls, folder: str | os.PathLike, device: str = "cpu"):
        """Rebuild the network from a local folder, in eval mode on `device`."""
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"no model at {folder}: give a folder with config.json and model.safetensors")
        config = read_json(folder / "config.json")
        name = config.pop("architecture", cls.__name__)  # folders of before this was noted have none
        if name != cls.__name__:
            raise UserError(f"{folder} holds a {name}, not a {cls.__name__}")
        try:
            model = cls(**config)
            weights = load_file(folder / "model.safetensors")
            model.load_state_dict(weights)
        except TypeError as error:
            raise UserError(f"{folder / 'config.json'} does not describe a {cls.__name__}: {error}") from error
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot read {folder / 'model.safetensors'} as safetensors: {error}") from error
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{folder} holds weights of another shape than {cls.__name__}: {reason}") from error
        return model.to(device).eval()


def cache_folder() -> Path:
    """Where packs and embeddings are kept: `$MOCAPFREE_CACHE`, else the user's cache folder. Safe to delete at any time."""
    if given := os.environ.get("MOCAPFREE_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mocapfree_nb"
