"""Files the safe way: read within bounds, written whole or not at all, never a pickle, and errors a user can act on."""

# Every reader takes regular files only (no pipe, no device), of a size that is checked before memory is spent, and gives
# finite numbers; every one raises `UserError`, in one line, for anything else.

import inspect
import io
import json
import math
import os
import sys
import re
import stat
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = [
    "UserError", "PretrainedModel", "printable", "user_path", "is_folder", "is_file", "check_file", "open_file",
    "read_bytes", "read_text", "read_json", "parse_json", "load_array", "read_arrays", "read_tensors", "load_state",
    "check_finite", "check_archive", "tensor_fault", "settings_of", "check_settings", "build_network", "write_atomically",
    "remove_leftovers", "save_state", "write_json", "cache_folder", "WEIGHTS",
]  # fmt: skip

WEIGHTS = Path(__file__).parent / "weights"  # the small networks that ship with the package
MEBIBYTE = 2**20
LARGEST_TEXT = 16 * MEBIBYTE  # a JSON text of this size takes some 400 MB of memory
LARGEST_ARRAYS = 512 * MEBIBYTE
LARGEST_WEIGHTS = 4096 * MEBIBYTE  # published checkpoints have 0.01 to 1.7 GiB
DEEPEST = 64  # levels of nesting


class UserError(Exception):
    """A mistake that the user can mend: the message says what, where, and what to do.

    The command line prints it as one line and exits with status 1, without a traceback.
    """


def printable(text: object, longest: int = 300) -> str:
    """`text` on one line for a message: control characters and broken Unicode as escapes, the middle left out if long."""
    line = str(text)
    if len(line) > longest:
        line = f"{line[: longest // 2]}...{line[-longest // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


def _reason(error: BaseException) -> str:
    """What an error says, in a few words on one line."""
    return printable(getattr(error, "strerror", None) or error or type(error).__name__, 200) or type(error).__name__


def user_path(path: str | os.PathLike) -> Path:
    """The path, with "~" as the user's home folder where there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def is_folder(path: str | os.PathLike) -> bool:
    """Is it a folder, or a link to one? False also for a name that no file system takes."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: str | os.PathLike) -> bool:
    """Is it a regular file, or a link to one? False also for a name that no file system takes."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


# Reading


def check_file(path: str | os.PathLike, largest: int = LARGEST_WEIGHTS, within: str | os.PathLike | None = None) -> Path:
    """The path, if it is a regular file (or a link to one) of at most `largest` bytes; else raise `UserError`.

    For libraries that open a file themselves. With `within`, a file outside that folder is refused, whatever link or
    ".." leads to it, and messages name the file as seen from there.
    """
    with open_file(path, largest, within):
        return Path(path)


@contextmanager
def open_file(
    path: str | os.PathLike, largest: int = LARGEST_WEIGHTS, within: str | os.PathLike | None = None
) -> Iterator[BinaryIO]:
    """Open a regular file for reading bytes, as `check_file` allows it; never waits for a pipe or a device."""
    name = _name_within(path, within)
    try:
        if within is not None:
            folder = os.path.realpath(within)
            if os.path.commonpath([folder, os.path.realpath(path)]) != folder:
                raise UserError(f"{name} leads out of the folder, so it is not read; put the file itself there")
        # looked at before it is opened: opening alone can set off a device; and after: it may have been exchanged
        _check_regular(os.stat(path), name, largest)
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name, or what no file system can spell
        raise UserError(f"cannot read {name}: {_reason(error)}") from error
    with os.fdopen(handle, "rb") as file:
        _check_regular(os.fstat(handle), name, largest)
        yield file


def _name_within(path: str | os.PathLike, within: str | os.PathLike | None) -> str:
    """What a message calls a file: its path, seen from the folder `within`."""
    return printable(path if within is None else os.path.relpath(path, within)) or "''"


def _check_regular(status: os.stat_result, name: str, largest: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"cannot read {name}: it is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
        kind = next((word for test, word in kinds if test(status.st_mode)), "a device")
        raise UserError(f"cannot read {name}: it is {kind}, not a regular file; copy its content to one")
    if status.st_size > largest:
        raise UserError(f"{name} has {_size(status.st_size)}; at most {_size(largest)} are read")


def _size(count: int) -> str:
    return f"{count / MEBIBYTE:,.0f} MiB" if count >= MEBIBYTE else f"{count:,} bytes"


def read_bytes(path: str | os.PathLike, largest: int = LARGEST_TEXT, within: str | os.PathLike | None = None) -> bytes:
    """All of a regular file of at most `largest` bytes."""
    with open_file(path, largest, within) as file:
        try:
            return file.read(largest)
        except OSError as error:
            raise UserError(f"cannot read {_name_within(path, within)}: {_reason(error)}") from error


def read_text(path: str | os.PathLike, largest: int = LARGEST_TEXT, within: str | os.PathLike | None = None) -> str:
    """UTF-8 text with or without a byte-order mark, and with any line ending (they become a line feed)."""
    content = read_bytes(path, largest, within)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        name = _name_within(path, within)
        raise UserError(f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str, name: str) -> object:
    """A JSON value whose numbers are finite and below 2^64, nested at most 64 deep; `name` is what messages call it."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float, parse_int=_bounded_int)
    except RecursionError:
        raise UserError(f"{name} is nested more than {DEEPEST} levels deep") from None
    except ValueError as error:
        raise UserError(f"{name} is not JSON ({_reason(error)}); it may be truncated") from error
    level, depth = [value], 0
    while level := [part for parent in level for part in _parts(parent)]:
        if (depth := depth + 1) > DEEPEST:
            raise UserError(f"{name} is nested more than {DEEPEST} levels deep")
    return value


def _parts(value: object) -> Collection:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refuse_constant(word: str) -> None:
    raise ValueError(f"it holds {word}, which is no number")


def _finite_float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= 2**64:
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def read_json(path: str | os.PathLike, largest: int = LARGEST_TEXT) -> dict:
    """Read a JSON object, as `parse_json` allows it."""
    name = printable(path)
    value = parse_json(read_text(path, largest), name)
    if not isinstance(value, dict):
        raise UserError(f"{name} should hold a JSON object, not a {type(value).__name__}")
    return value


# Arrays of numpy

HOW_TO_SAVE = (
    "MDM's results.npy is one: where it was made, write the joints of each motion to a file of its own, "
    "d = np.load('results.npy', allow_pickle=True).item(); for i, (m, n) in enumerate(zip(d['motion'], d['lengths'])): "
    "np.save(f'{i:06d}.npy', m.transpose(2, 0, 1)[:n])"
)


def _read_array(file: BinaryIO, size: int, name: str) -> np.ndarray:
    """The array of an open .npy file or member of `size` bytes, once its header promises no more than that."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version} of the format")
    width = 2 if version == (1, 0) else 4
    length = file.read(width)
    if int.from_bytes(length, "little") > 10_000:
        raise ValueError("a header of more than 10,000 bytes")
    header = length + file.read(int.from_bytes(length, "little"))
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(io.BytesIO(header))
    if dtype.kind not in "biufUS" or dtype.subdtype or dtype.itemsize > 65_536:
        advice = f" ({HOW_TO_SAVE})" if dtype.hasobject else ""
        raise UserError(
            f"{name} is not a plain .npy array but holds {printable(dtype, 60)}; pickled objects are never loaded{advice}"
        )
    count = math.prod(shape)
    if len(shape) > 32 or min(shape, default=0) < 0 or max(shape, default=0) >= 2**40:
        raise UserError(f"{name} claims the shape {printable(shape, 80)}")
    if (promised := count * dtype.itemsize) > size - 6 - 2 - len(header):
        raise UserError(f"{name} claims {_size(promised)}, more than the file holds; it may be truncated")
    magic = bytes([*b"\x93NUMPY", *version])
    array = np.lib.format.read_array(_Rejoined(magic + header, file), allow_pickle=False)
    return array.astype(dtype.newbyteorder("="), copy=False)  # torch takes no other order of bytes


class _Rejoined(io.RawIOBase):
    """A stream of some bytes, then of what is left of another stream."""

    def __init__(self, first: bytes, rest: BinaryIO):
        self.first, self.rest = io.BytesIO(first), rest

    def read(self, size: int = -1) -> bytes:
        return self.first.read(size) or self.rest.read(size)


def check_finite(values: Mapping[str, np.ndarray | Tensor], where: str) -> None:
    """Raise `UserError` if one of these arrays or tensors holds NaN or infinity; it names the first."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            sound = not (value.is_floating_point() or value.is_complex()) or bool(torch.isfinite(value).all())
        else:
            sound = value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
        if not sound:
            what = f"{where}: {printable(name, 80)}" if name else where
            raise UserError(f"{what} holds NaN or infinite numbers, which are neither read nor saved")


def load_array(
    path: str | os.PathLike, largest: int = LARGEST_ARRAYS, within: str | os.PathLike | None = None, finite: bool = True
) -> np.ndarray:
    """Load one `.npy` array, refusing pickled objects, a size that the file does not hold, and (`finite`) NaN."""
    name = _name_within(path, within)
    with open_file(path, largest, within) as file:
        try:
            if file.peek(2)[:2] == b"PK":
                raise UserError(f"{name} holds several arrays; a single .npy array is expected")
            array = _read_array(file, os.fstat(file.fileno()).st_size, name)
        except UserError:
            raise
        except Exception as error:  # a damaged header can raise anything, a MemoryError too; the remedy is one
            raise UserError(f"{name} is not a plain .npy array ({_reason(error)})") from error
    if finite:
        check_finite({"": array}, name)
    return array


def read_arrays(
    path: str | os.PathLike,
    names: Collection[str] | None = None,  # default: all that are there
    largest: int = LARGEST_ARRAYS,  # bytes of all arrays together, unpacked
    within: str | os.PathLike | None = None,
    finite: bool = True,
) -> dict[str, np.ndarray]:
    """Those of the arrays `names` that an `.npz` archive holds; the caller checks what is missing.

    The sizes that the archive declares are added up before anything is unpacked.
    """
    name, arrays = _name_within(path, within), {}
    with open_file(path, largest, within) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
                chosen = {key: member for key, member in members.items() if names is None or key in names}
                if (total := sum(member.file_size for member in chosen.values())) > largest:
                    raise UserError(f"{name} unpacks to {_size(total)}; at most {_size(largest)} are read")
                for key, member in chosen.items():
                    # other methods unpack without a bound
                    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise UserError(f"{name} is packed in a way that numpy never writes; save it anew")
                    with archive.open(member) as stream:
                        arrays[key] = _read_array(stream, member.file_size, f"{name}: {printable(key, 80)}")
        except UserError:
            raise
        except Exception as error:  # a damaged archive can raise anything
            raise UserError(f"cannot read {name} as an .npz archive ({_reason(error)}); it may be truncated") from error
    if finite:
        check_finite(arrays, name)
    return arrays


# Tensors


def check_archive(file: BinaryIO, name: str) -> bool:
    """Is it a zip archive, as `torch.save` writes them? The file is at its beginning afterwards.

    Raises `UserError` unless its members are as large as they are said to be.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    zipped = file.read(4) == b"PK\x03\x04"
    if zipped:
        _check_members(file, name, size)
    file.seek(0)
    return zipped


def _check_members(file: BinaryIO, name: str, size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise UserError(f"{name} is a compressed archive, which torch.save never writes; unpack it first")
            if member.file_size != member.compress_size or member.header_offset + member.file_size > size:
                what = f"{_size(member.file_size)} in {printable(member.filename, 80)}"
                raise UserError(f"{name} claims {what}, more than it holds")
            if member.filename.endswith(".pkl") and member.file_size > LARGEST_TEXT:
                raise UserError(f"{name} holds a pickle of {_size(member.file_size)}; at most {_size(LARGEST_TEXT)} are read")


_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool}
_DTYPES |= {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def tensor_fault(value: Tensor) -> str:
    """What makes a tensor from a file unfit for use, before its numbers are looked at; empty where nothing does."""
    if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided or value.is_nested or value.is_quantized:
        return "is sparse, quantised or of another special kind"
    if value.device.type == "meta" or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"claims {tuple(value.shape)}, more than the file holds"
    return "" if value.dtype in _DTYPES else f"holds numbers of the kind {value.dtype}"


def _check_tree(value: object, where: str, name: str = "", seen: dict[int, bool] | None = None, depth: int = 0) -> None:
    """Raise `UserError` for a tensor in nested dicts and lists that is unfit or not finite, and for endless nesting."""
    seen = {} if seen is None else seen  # by its id: has all inside been looked at? A list may be referred to a million times
    if seen.get(id(value)):
        return
    if depth > DEEPEST or id(value) in seen:
        raise UserError(f"{where} is nested more than {DEEPEST} levels deep")
    if isinstance(value, Tensor):
        if fault := tensor_fault(value):
            raise UserError(f"{where}: {printable(name, 80)} {fault}")
        check_finite({name: value}, where)
        seen[id(value)] = True
    elif isinstance(value, float) and math.isnan(value):
        raise UserError(f"{where}: {printable(name, 80)} is NaN, which is neither read nor saved")
    elif isinstance(value, Mapping | list | tuple | set):
        seen[id(value)] = False
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            _check_tree(part, where, f"{name}.{key}" if name else str(key), seen, depth + 1)
        seen[id(value)] = True


def load_state(path: str | os.PathLike, largest: int = LARGEST_WEIGHTS, device: torch.device | str = "cpu") -> dict:
    """Load what `save_state` wrote: a dict of finite tensors and plain values. No code of the file is run."""
    name = printable(path)
    with open_file(path, largest) as file:
        try:
            check_archive(file, name)
            state = torch.load(file, map_location="cpu", weights_only=True)
        except UserError:
            raise
        except Exception as error:  # a damaged file can raise anything; the remedy is one
            raise UserError(f"cannot read {name}: it is damaged or no checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise UserError(f"{name} is no checkpoint: it holds a {type(state).__name__}")
    _check_tree(state, name)
    return state if torch.device(device).type == "cpu" else _moved(state, device)


def _moved(value: object, device: torch.device | str) -> object:
    """Nested dicts and lists with every tensor on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    return type(value)(_moved(part, device) for part in value) if isinstance(value, list | tuple) else value


def read_tensors(path: str | os.PathLike, largest: int = LARGEST_WEIGHTS, finite: bool = True) -> dict[str, Tensor]:
    """Every tensor of a `.safetensors` file by name; with `finite`, NaN is refused."""
    name = printable(path)
    check_file(path, largest)
    try:
        found = load_file(path)
    except Exception as error:  # a damaged header can raise anything
        raise UserError(f"cannot read {name} as safetensors: {_reason(error)}") from error
    for key, value in found.items():
        if fault := tensor_fault(value):
            raise UserError(f"{name}: {printable(key, 80)} {fault}")
    if finite:
        check_finite(found, name)
    return found


# Writing


def _target(path: str | os.PathLike) -> Path:
    """Where writing to `path` ends: a link is followed, and stays. Raises `UserError` for what is no regular file."""
    name = printable(path)
    try:
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise UserError(f"cannot write {name}: it is a link that leads to itself; choose another place")
        mode = target.stat().st_mode if target.exists() else stat.S_IFREG
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {name}: {_reason(error)}; choose another place") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise UserError(f"cannot write {name}: it is {kind}; name a file")
    return target


@contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place only if the block succeeds.

    A full disk or Ctrl-C in the middle leaves whatever was at `path` before, untouched. A link is followed: the file
    that it leads to is replaced, and the link stays. Raises `UserError` where the folder cannot be written, or where
    there is something else than a regular file.
    """
    target, name = _target(path), printable(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name[:60]}.{os.getpid()}-"
        handle, made = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=target.suffix[:20])
        os.close(handle)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {name}: {_reason(error)}; choose another place") from error
    temporary = Path(made)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write {name}: {_reason(error)}; what was there before is untouched") from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove temporary files of `write_atomically` in a folder whose process is gone (it was killed while writing)."""
    for left in Path(folder).glob(".*-*"):
        match = re.fullmatch(r"\..*\.(\d+)-[a-z0-9_]{8}(\..*)?", left.name, re.DOTALL)
        if match and not _is_running(int(match[1])):
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it runs, but is not ours; or, on Windows, nobody knows
        return True
    return True


def save_state(path: str | os.PathLike, state: dict) -> None:
    """`torch.save` a dict of finite tensors and plain values, atomically.

    It is put together in memory first: on a full disk `torch.save` itself raises an error that does not say so.
    """
    _check_tree(state, printable(path))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with write_atomically(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON, atomically. Raises `UserError` for NaN and infinity, which JSON does not have."""
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError as error:
        raise UserError(f"{printable(path)} is not written: a number in it is NaN or infinite") from error
    with write_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


# Networks


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
        raise UserError(f"{where}: {error}") from error
    except Exception as error:  # settings that contradict each other fail in many ways
        given = printable(dict(settings))
        raise UserError(f"{where}: no {network.__name__} can be built with {given} ({_reason(error)})") from error
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
        this one with `model_card_kwargs`; the cards of this kit are written by hand. Raises `UserError` for weights
        that are not finite.
        """
        self._save_pretrained(Path(save_directory))
        config = {"architecture": type(self).__name__} | (config or self._hub_mixin_config or {})
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
        check_settings(cls, {name: value for name, value in options.items() if name not in _HUB}, printable(model_id))
        model = super()._from_pretrained(model_id=model_id, map_location=map_location, **options | {"strict": True})
        check_finite(model.state_dict(), printable(model_id))
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
        weights = read_tensors(folder / "model.safetensors")
        return build_network(cls, config, weights, name).to(device)


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
