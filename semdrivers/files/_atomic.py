"""Files that appear whole or not at all, and never take the place of another unless that is configured."""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semdrivers.errors import ExistingFileError, SemDriversError

_log = logging.getLogger("semdrivers.files")


def check_free(path: str | Path, overwrite: bool = False) -> None:
    """Raise unless a file can be written under that name: before the instrument moves, for what comes after.

    Raises
    ------
    ExistingFileError
        When there is such a file, unless `overwrite`.
    FileNotFoundError
        When there is no such folder.
    """
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))
    if not overwrite and os.path.lexists(path):
        raise ExistingFileError(path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have what the block raises name the file that it writes.

    A full disk, a quota or a lost share raises an `OSError` without a name; numpy even leaves out the reason.
    """
    try:
        yield
    except OSError as error:
        if not isinstance(error, SemDriversError):
            if error.errno is None:
                error.errno, error.strerror = errno.EIO, f"not all of it could be written, as on a full disk: {error}"
            if error.filename is None:
                error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path, overwrite: bool = False, *, private: bool = False) -> Iterator[Path]:
    """Yield an empty file beside `path`; what is written there takes the name `path` if all went well.

    The file is new: a link of that name is never followed.

    Parameters
    ----------
    path : Path
        The file to appear.
    overwrite : bool
        Whether it may take the place of another.
    private : bool
        Whether its owner alone may read it (mode 0600); others may read it too by default (0644).

    Raises
    ------
    ExistingFileError
        When there is such a file, unless `overwrite`; also when it appeared meanwhile.
    FileNotFoundError
        When there is no such folder.
    OSError
        When not all could be written; it names the file. What was there stays.
    """
    check_free(path, overwrite)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    os.close(os.open(temporary, flags, 0o600 if private else 0o644))
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _take_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _log.info("saved %s", path)


def _take_name(temporary: Path, path: Path) -> None:
    """Give a file its name in one step that fails where the name is taken; not every file system has such a step."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise ExistingFileError(path) from None
    except (OSError, NotImplementedError):
        check_free(path)
        os.replace(temporary, path)
