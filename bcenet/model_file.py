"""The model file: numbers and JSON in one safetensors file, with a digest, checked when read.

Layout (safetensors, little-endian): 8 bytes with the header's length, the header in JSON, then
the tensors end to end. The header maps each tensor's name to its type, shape and place, and
``__metadata__`` to strings:

========================  ==========================================================
``format``                ``bcenet``
``format_version``        ``1``
``bcenet_version``        the version that wrote the file
``kind``                  ``network``, ``model`` or ``checkpoint``
``config``                the configuration, in JSON
``sha256``                SHA-256 of the whole file with these 64 digits taken as zeros
========================  ==========================================================

The safetensors library writes the tensors, and reads such files too. It accepts repeated names,
and has no checksum, so reading is done here: every byte of a file is either checked or covered by
the digest, and nothing is allocated that is large beside the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bcenet.atomic_file import write_file
from bcenet.errors import ModelFormatError

_FORMAT = "bcenet"
_FORMAT_VERSION = "1"
_NO_DIGEST = "0" * 64
_METADATA_KEYS = {"format", "format_version", "bcenet_version", "kind", "config", "sha256"}
_DTYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U8": "|u1"}


def write(
    path: str | os.PathLike[str], tensors: dict[str, np.ndarray], metadata: dict[str, Any]
) -> None:
    """Write a model file; ``path`` then holds the whole new file or, after an error, the old one.

    The same arguments and version give the same bytes. See `bcenet.atomic_file.write_file`
    for how the file is replaced, and for its permissions.

    Arguments:
        path: the file to write.
        tensors: arrays of float32, float64, int64 or uint8, of any shape, by name.
        metadata: ``{"kind": str, "config": JSON-able dict}``.

    Raises:
        ValueError, TypeError: if the arguments cannot be stored; nothing is written then.
        OSError: if the file cannot be written.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = folder.name + "/numbers.bcenet"
    >>> write(path, {"a": np.arange(3.0)}, {"kind": "network", "config": {"n": 3}})
    >>> tensors, metadata = read(path)
    >>> tensors["a"], metadata["kind"], metadata["config"]
    (array([0., 1., 2.]), 'network', {'n': 3})
    >>> folder.cleanup()
    """
    write_file(path, _encode(tensors, metadata))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a model file and check all of it.

    Returns:
        (tensors, metadata): read-only views of the file's bytes by name, and ``kind``, ``config``
        and ``bcenet_version``.

    Raises:
        ModelFormatError: naming the file and the reason, if it is not a whole, unchanged model file
            of a known format version.
        OSError: if the file cannot be read (FileNotFoundError if there is none).

    Example: see `write`.
    """
    try:
        return _decode(*_read_bytes(path))
    except ModelFormatError as error:
        raise ModelFormatError(f"{os.fspath(path)}: {error}") from None


@contextmanager
def content_of(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what constructors say of a file's content into one ModelFormatError."""
    try:
        yield
    except KeyError as error:
        raise ModelFormatError(f"{os.fspath(path)}: it lacks {error}") from error
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise ModelFormatError(f"{os.fspath(path)}: {error}") from error


def _encode(tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> list[bytes | memoryview]:
    """The file's bytes, in pieces."""
    import safetensors.numpy

    from bcenet.config import __version__

    stored = {}
    for name, value in tensors.items():
        array = np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C")
        if array.dtype.str not in _DTYPES.values():
            known = "float32, float64, int64, uint8"
            raise TypeError(f"tensors[{name!r}] must be one of {known}; got {value.dtype}")
        stored[name] = array
    blob = safetensors.numpy.save(
        stored,
        {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "bcenet_version": __version__,
            "kind": metadata["kind"],
            "config": _to_json(metadata["config"]),
            "sha256": _NO_DIGEST,
        },
    )
    # The library puts the metadata in an order of its own each time; sorted, the same model
    # gives the same file. ASCII keeps the text at one byte a character when it is read.
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = _to_json(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    data = memoryview(blob)[8 + length :]
    try:
        _check_header_size(text, 8 + len(text) + len(data))
    except ModelFormatError as error:
        raise ValueError(f"the configuration is too long for a model file: {error}") from None
    prefix = len(text).to_bytes(8, "little")
    digest = _digest(prefix, text, data)
    return [prefix, text.replace(_digest_field(_NO_DIGEST), _digest_field(digest)), data]


def _to_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _digest_field(digest: str) -> bytes:
    """The digest as it stands in the header; inside a JSON string its quotes would be escaped."""
    return f'"sha256":"{digest}"'.encode()


def _digest(*pieces: bytes | memoryview) -> str:
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()


def _read_bytes(path: str | os.PathLike[str]) -> tuple[bytes, bytes]:
    """(the first 8 bytes, the rest), once the header's length is seen to fit the file's size."""
    if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
        raise ModelFormatError("not a regular file")  # a pipe or a device may never end
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if size < 8 or length < 2 or length > size - 8:
            raise ModelFormatError("not a bcenet model file, or cut short")
        rest = file.read(size - 8)
        if len(prefix) + len(rest) != size or file.read(1):
            raise ModelFormatError("changed while it was read")
    return prefix, rest


def _decode(prefix: bytes, rest: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Check the two parts of a file; the order is cheapest and most telling reason first."""
    length = int.from_bytes(prefix, "little")
    text, data = rest[:length], memoryview(rest)[length:]
    _check_header_size(text, len(prefix) + len(rest))
    header = _from_json(text.decode("ascii"), "the header")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != _FORMAT:
        raise ModelFormatError("not a bcenet model file")
    if metadata.get("format_version") != _FORMAT_VERSION:
        raise ModelFormatError(
            f"its format version is {metadata.get('format_version')!r}, "
            f"this version of bcenet reads {_FORMAT_VERSION!r}"
        )
    if metadata.keys() != _METADATA_KEYS or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelFormatError(f"its metadata must be the strings {sorted(_METADATA_KEYS)}")
    _check_digest(metadata["sha256"], prefix, text, data)
    tensors = _tensors(header, data)
    config = _from_json(metadata["config"], "the configuration")
    return tensors, {
        "kind": metadata["kind"],
        "config": config,
        "bcenet_version": metadata["bcenet_version"],
    }


def _check_header_size(text: bytes, size: int) -> None:
    """Refuse a header whose parsed form could be large beside the file.

    A JSON value takes up to about 120 bytes in memory for two bytes of text (``{}``), and the text
    is held about three times. These bounds keep the whole below the file's size plus 12 MiB; a
    model stays far below them, as what grows with the data is in the tensors.
    """
    if len(text) > 2**19 + size // 16:
        raise ModelFormatError(f"its header of {len(text)} bytes is too long")
    values = sum(text.count(mark) for mark in (b",", b"[", b"{"))
    if values > 2**16 + size // 256:
        raise ModelFormatError(f"its header of {values} values is too long")
    if not text.isascii():
        raise ModelFormatError("its header is not ASCII")


def _from_json(text: str, what: str) -> dict[str, Any]:
    """The JSON object in ``text``, without repeated names, NaN and infinities."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name occurs twice")
        return result

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ValueError(f"{number} is not a finite number")
        return value

    try:
        value = json.loads(
            text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite
        )
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFormatError(f"{what} must be a JSON object")
    return value


def _check_digest(digest: str, prefix: bytes, text: bytes, data: memoryview) -> None:
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ModelFormatError("its digest is not 64 hexadecimal digits")
    field = _digest_field(digest)
    if text.count(field) != 1:
        raise ModelFormatError("its digest is not written as bcenet writes it")
    if _digest(prefix, text.replace(field, _digest_field(_NO_DIGEST)), data) != digest:
        raise ModelFormatError("its content does not fit its SHA-256 digest: it is damaged")


def _tensors(header: dict[str, Any], data: memoryview) -> dict[str, np.ndarray]:
    """Views of ``data``, once the entries are seen to cover it from end to end."""

    def is_size(value: Any) -> bool:
        return type(value) is int and 0 <= value <= len(data)

    tensors, end = {}, 0
    for name, entry in header.items():  # in the order of the data, as they are written
        try:
            dtype = np.dtype(_DTYPES[entry["dtype"]])
            shape, (first, last) = entry["shape"], entry["data_offsets"]
            well_formed = len(entry) == 3 and len(shape) <= 8 and isinstance(shape, list)
        except (KeyError, TypeError, ValueError):
            well_formed = False
        if not well_formed or not all(is_size(value) for value in (*shape, first, last)):
            raise ModelFormatError(f"the entry of tensor {name!r} is not well formed")
        if first != end or last - first != math.prod(shape) * dtype.itemsize:
            raise ModelFormatError(f"tensor {name!r} does not lie where its shape says")
        try:
            tensors[name] = np.frombuffer(data[first:last], dtype).reshape(shape)
        except ValueError:  # an empty shape with huge sides, (0, 2**40, 2**40)
            raise ModelFormatError(f"tensor {name!r} has an impossible shape {shape}") from None
        end = last
    if end != len(data):
        raise ModelFormatError(f"{len(data) - end} bytes follow the last tensor")
    return tensors
