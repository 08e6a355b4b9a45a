"""Reading what a stranger may have written: text, JSON, arrays and tensors, within bounds, finite, and never a pickle."""

import io
import json
import math
import os
import zipfile
from collections.abc import Collection, Mapping
from typing import BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .files import (
    LARGEST_ARRAYS,
    LARGEST_TEXT,
    LARGEST_WEIGHTS,
    UserError,
    check_file,
    in_bytes,
    name_within,
    open_file,
    printable,
    reason,
    write_atomically,
)

__all__ = [
    "read_bytes", "read_text", "read_json", "parse_json", "load_array", "read_arrays", "read_tensors", "load_state",
    "save_state", "check_finite", "check_archive", "tensor_fault",
]  # fmt: skip

DEEPEST = 64  # levels of nesting


def read_bytes(path: str | os.PathLike, largest: int = LARGEST_TEXT, within: str | os.PathLike | None = None) -> bytes:
    """All of a regular file of at most `largest` bytes."""
    with open_file(path, largest, within) as file:
        try:
            return file.read(largest)
        except OSError as error:
            raise UserError(f"cannot read {name_within(path, within)}: {reason(error)}") from error


def read_text(path: str | os.PathLike, largest: int = LARGEST_TEXT, within: str | os.PathLike | None = None) -> str:
    """UTF-8 text with or without a byte-order mark, and with any line ending (they become a line feed)."""
    content = read_bytes(path, largest, within)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        name = name_within(path, within)
        raise UserError(f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str, name: str) -> object:
    """A JSON value whose numbers are finite and below 2^64, nested at most 64 deep; `name` is what messages call it."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float, parse_int=_bounded_int)
    except RecursionError:
        raise UserError(f"{name} is nested more than {DEEPEST} levels deep") from None
    except ValueError as error:
        raise UserError(f"{name} is not JSON ({reason(error)}); it may be truncated") from error
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
        raise UserError(f"{name} claims {in_bytes(promised)}, more than the file holds; it may be truncated")
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
    name = name_within(path, within)
    with open_file(path, largest, within) as file:
        try:
            if file.peek(2)[:2] == b"PK":
                raise UserError(f"{name} holds several arrays; a single .npy array is expected")
            array = _read_array(file, os.fstat(file.fileno()).st_size, name)
        except UserError:
            raise
        except Exception as error:  # a damaged header can raise anything, a MemoryError too; the remedy is one
            raise UserError(f"{name} is not a plain .npy array ({reason(error)})") from error
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
    name, arrays = name_within(path, within), {}
    with open_file(path, largest, within) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
                chosen = {key: member for key, member in members.items() if names is None or key in names}
                if (total := sum(member.file_size for member in chosen.values())) > largest:
                    raise UserError(f"{name} unpacks to {in_bytes(total)}; at most {in_bytes(largest)} are read")
                for key, member in chosen.items():
                    # other methods unpack without a bound
                    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise UserError(f"{name} is packed in a way that numpy never writes; save it anew")
                    with archive.open(member) as stream:
                        arrays[key] = _read_array(stream, member.file_size, f"{name}: {printable(key, 80)}")
        except UserError:
            raise
        except Exception as error:  # a damaged archive can raise anything
            raise UserError(f"cannot read {name} as an .npz archive ({reason(error)}); it may be truncated") from error
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
                what = f"{in_bytes(member.file_size)} in {printable(member.filename, 80)}"
                raise UserError(f"{name} claims {what}, more than it holds")
            if member.filename.endswith(".pkl") and member.file_size > LARGEST_TEXT:
                what = f"a pickle of {in_bytes(member.file_size)}; at most {in_bytes(LARGEST_TEXT)} are read"
                raise UserError(f"{name} holds {what}")


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
        raise UserError(f"cannot read {name} as safetensors: {reason(error)}") from error
    for key, value in found.items():
        if fault := tensor_fault(value):
            raise UserError(f"{name}: {printable(key, 80)} {fault}")
    if finite:
        check_finite(found, name)
    return found


def save_state(path: str | os.PathLike, state: dict) -> None:
    """`torch.save` a dict of finite tensors and plain values, atomically.

    It is put together in memory first: on a full disk `torch.save` itself raises an error that does not say so.
    """
    _check_tree(state, printable(path))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with write_atomically(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
