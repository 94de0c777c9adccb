"""Writing a file so that its name holds the old content or the new one, never a part of either."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress

_PREFIX, _SUFFIX = ".bcenet-", ".tmp"  # of temporary files


def write_file(path: str | os.PathLike[str], chunks: Iterable[bytes | memoryview]) -> None:
    """Replace the file at ``path`` by ``chunks``, or leave it exactly as it was.

    The bytes go to a temporary file in the same folder, which is flushed to the disk and renamed
    over ``path``; then the folder is flushed. If anything fails before the rename, the temporary
    file is removed and the old file is untouched. A symbolic link is followed: the file it points
    to is replaced, the link stays. The new file has the permissions that the umask gives to a
    new file, whatever the old one had. A device or a pipe (``/dev/stdout``) is written to directly.

    Arguments:
        path: the file to write; its folder must exist and be writable.
        chunks: the content, in order. An exception raised by the iterable leaves the old file.

    Raises:
        OSError: naming ``path``, if any system call failed.

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "numbers.txt")
    >>> write_file(path, [b"one ", b"two"])
    >>> path.read_text()
    'one two'
    >>> [p.name for p in path.parent.iterdir()]
    ['numbers.txt']
    >>> folder.cleanup()
    """
    name = os.fspath(path)
    try:
        try:
            mode = os.stat(name).st_mode
        except FileNotFoundError:
            target = os.path.realpath(name)  # a dangling link: what it points to is created
        else:
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
            if not stat.S_ISREG(mode):
                _write_through(name, chunks)
                return
            # strict: an unreadable link must not be taken for the file itself
            target = os.path.realpath(name, strict=True)
        _write_and_rename(target, chunks)
    except OSError as error:
        # The temporary file's name says nothing to the caller, and a failed write has no name.
        raise OSError(error.errno, error.strerror, name) from error


def remove_temporaries(folder: str) -> None:
    """Remove what killed processes left of their files in a folder that no other one writes to."""
    for name in os.listdir(folder):
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))


def _write_through(name: str, chunks: Iterable[bytes | memoryview]) -> None:
    """Write to a device or a pipe, which cannot be replaced by a rename."""
    descriptor = os.open(name, os.O_WRONLY)
    try:
        _write_all(descriptor, chunks)
    finally:
        os.close(descriptor)


def _write_and_rename(target: str, chunks: Iterable[bytes | memoryview]) -> None:
    folder = os.path.dirname(target)
    # Opened first: where the folder cannot be flushed, nothing is written.
    folder_descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    temporary = os.path.join(folder, f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}")
    descriptor = -1
    try:
        # 0o666 less the umask, as open() does
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        _write_all(descriptor, chunks)
        os.fsync(descriptor)
        closing, descriptor = descriptor, -1
        os.close(closing)
        os.replace(temporary, target)
        os.fsync(folder_descriptor)
    except BaseException:  # KeyboardInterrupt too; also one that arrives inside os.open
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)
        with suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        os.close(folder_descriptor)


def _write_all(descriptor: int, chunks: Iterable[bytes | memoryview]) -> None:
    """Write every byte, however few a call takes; Python itself repeats a call after EINTR."""
    for chunk in chunks:
        rest = memoryview(chunk).cast("B")
        while rest:
            written = os.write(descriptor, rest)
            if written == 0:
                raise OSError(errno.EIO, "nothing was written")
            rest = rest[written:]
