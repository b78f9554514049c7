"""Folders for what can be computed again: compiled kernels, rates of kernels, packed data.

The first choice is the user's cache directory (``XDG_CACHE_HOME``, else below the home directory).  Where that one
cannot be written, as in a container without a home, small files that are slow to compute go to the temporary directory.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import platformdirs

TEMPORARY = ("TMPDIR", "TEMP", "TMP")  # as ``tempfile`` reads them, but it falls back to the working directory


def user_folder() -> Path | None:
    """This user's cache directory for modelpar, existing or not; None where no home is known.

    Without a home the path begins with ``~``, and with XDG_CACHE_HOME=x it is relative: either would become a folder
    below the working directory.
    """
    try:
        folder = Path(platformdirs.user_cache_path("modelpar"))
    except RuntimeError:  # platformdirs 4.6 and later, where no home is known
        return None
    return folder if folder.is_absolute() else None


def temporary_folder() -> Path:
    """This user's own folder in TMPDIR, existing or not; in ``/tmp`` where the environment names no directory."""
    named = [os.environ[name] for name in TEMPORARY if os.environ.get(name)]
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    return Path(os.path.abspath(named[0] if named else "/tmp")) / f"modelpar-{user}"


def kept_folders() -> list[Path]:
    """Folders where small files may be kept, best first: existing or not, writable or not."""
    user = user_folder()
    return [*([user] if user is not None else []), temporary_folder()]


def obstacle(folder: Path) -> str:
    """Make a folder where it is missing; return why no file can be written there, an empty text where one can.

    Folders that were made here and take no file are removed again.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        with suppress(OSError, ValueError):
            for path in missing:
                path.rmdir()
        return getattr(error, "strerror", None) or str(error)
    return ""


def first_writable(*names: str) -> tuple[Path | None, dict[Path, str]]:
    """The first writable subfolder ``names`` of the user's folder or the temporary one, None where there is none; and
    why those before it could not be used.

    No home is made: some systems name one that must not exist, as ``/nonexistent``.  A temporary folder that another
    user could have filled is not used.
    """
    user, temporary, reasons = user_folder(), temporary_folder(), dict[Path, str]()
    if user is None:
        reasons[Path("~", *names)] = "no home is known"
    else:
        folder = user.joinpath(*names)
        home = user.parent.parent  # of ~/.cache/modelpar
        reasons[folder] = obstacle(folder) if os.path.isdir(home) else f"{home} does not exist"
        if not reasons[folder]:
            return folder, {}
    folder = temporary.joinpath(*names)
    reasons[folder] = _distrust(temporary) or obstacle(folder)
    if not reasons[folder]:
        del reasons[folder]
        return folder, reasons
    return None, reasons


def _distrust(folder: Path) -> str:
    """Why a temporary folder, made where it is missing, cannot be trusted; an empty text where it can."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    foreign = hasattr(os, "geteuid") and status.st_uid != os.geteuid()
    if not stat.S_ISDIR(status.st_mode) or foreign or status.st_mode & 0o022:
        return "it belongs to another user, or others may write there"
    return ""
