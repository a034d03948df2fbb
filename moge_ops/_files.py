"""Files that others wrote, and files that are whole or absent.

Only regular files are read, or links to one, because the cache of a hub consists of links: a pipe
waits without end, a device may never end. What is written is written beside its place, and takes
the place when it is whole; a link that stood there is replaced, and what it led to stays.
"""

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["read", "read_object", "regular", "replacing", "staged", "write"]

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular(path: Path) -> int:
    """Size of a regular file, or of the one that a link leads to.

    Raises:
        FileNotFoundError: There is none; a dangling link is none.
        ValueError: It is something else.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent} has no {path.name}") from None
    return _regular(path, found)


def _regular(path: Path, found: os.stat_result) -> int:
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise ValueError(f"{path} must be a regular file, got {kind}")
    return found.st_size


def read(path: Path, most: int) -> bytes:
    """Reads a regular file of at most ``most`` bytes; raises as :func:`regular`, or ValueError."""
    size = regular(path)
    if size <= most:
        # by now another file may stand there: a pipe would wait for its writer
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
            _regular(path, os.fstat(file.fileno()))
            data = file.read(most + 1)  # a file of /proc has size 0 and content
        size = len(data)
    if size > most:
        raise ValueError(f"{path} must have at most {most:,} bytes, got {size:,}")
    return data


def read_object(path: Path, most: int) -> dict[str, Any]:
    """Reads a JSON object; raises as :func:`read` does, or ValueError."""
    data = read(path, most)
    try:
        values = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is not JSON that can be read: it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object, got {type(values).__name__}")
    return values


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new name beside ``path``; what is written there takes the place of ``path`` at the end.

    If the block fails, nothing is left of it, and ``path`` is what it was.

    Raises:
        ValueError: There is something at ``path`` that is no regular file.
    """
    path = Path(path)
    mode = None
    with suppress(FileNotFoundError):
        regular(path)
        mode = stat.S_IMODE(path.stat().st_mode)
    # the ending stays, because libraries choose the format by it
    beside = path.with_name(f".{secrets.token_hex(4)}{path.suffix}")
    try:
        yield beside
        if mode is not None:
            beside.chmod(mode)
        os.replace(beside, path)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file that takes the place of ``path`` when it is whole."""
    with replacing(path) as beside:
        beside.write_bytes(data)


@contextmanager
def staged(folder: Path, last: str) -> Iterator[Path]:
    """A new folder inside ``folder``; its files move into ``folder`` at the end, ``last`` as last.

    If the block fails, or a move, the folder becomes what it was, and one that was made is removed.

    Raises:
        IsADirectoryError: ``folder`` has a folder where a file shall be; nothing was moved.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    stage, undo = folder / f".unfinished-{secrets.token_hex(4)}", list[tuple[Path, Path]]()
    try:
        stage.mkdir(parents=True)
        yield stage
        moves = {path: folder / path.name for path in sorted(stage.iterdir())}
        for to in moves.values():
            if to.is_dir() and not to.is_symlink():
                raise IsADirectoryError(f"{to} must be a file or not exist, got a directory")
        for path in sorted(moves, key=lambda path: path.name == last):
            to, old = moves[path], stage / f"{path.name}.old"
            undo.append((to, old))
            if os.path.lexists(to):
                os.replace(to, old)
            os.replace(path, to)
        undo.clear()
        shutil.rmtree(stage)
    except BaseException:
        for to, old in reversed(undo):
            if os.path.lexists(old):
                old.rename(to)
            elif not os.path.lexists(stage / to.name):  # it was moved, and there was nothing before
                to.unlink(missing_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
        for path in missing:
            with suppress(OSError):  # somebody else may have put a file there
                path.rmdir()
        raise
