"""Folders for what can be made again: compiled kernels, rates of kernels, packed data.

The first choice is the user's cache directory (``XDG_CACHE_HOME``, else below the home directory).  What is small and
costly to make goes to the temporary directory where that one cannot be written, as in a container without a home.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import platformdirs

TEMPORARY = ("TMPDIR", "TEMP", "TMP")  # as ``tempfile`` reads them; it would end in the working directory


def user_folder() -> Path | None:
    """This user's cache directory for modelpar, there or not; None where no home is known.

    Without a home the path begins with ``~``, and with XDG_CACHE_HOME=x it is relative: either would become a folder
    of wherever the program happens to run.
    """
    try:
        folder = Path(platformdirs.user_cache_path("modelpar"))
    except RuntimeError:  # platformdirs 4.6 and later, where no home is known
        return None
    return folder if folder.is_absolute() else None


def temporary_folder() -> Path:
    """A folder for this user's own in TMPDIR, there or not; in ``/tmp`` where the environment names none."""
    named = [os.environ[name] for name in TEMPORARY if os.environ.get(name)]
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    return Path(os.path.abspath(named[0] if named else "/tmp")) / f"modelpar-{user}"


def kept_folders() -> list[Path]:
    """Where small things may be kept, best first: there or not, writable or not."""
    user = user_folder()
    return [*([user] if user is not None else []), temporary_folder()]


def obstacle(folder: Path) -> str:
    """Make a folder where it is missing; why no file can be written there, empty where one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return getattr(error, "strerror", None) or str(error)
    return ""


def first_writable(*names: str) -> tuple[Path | None, dict[Path, str]]:
    """The first of the user's folder and the temporary one in whose subfolder ``names`` files can be written, None
    where there is none; and why those before it could not be taken.

    No home is made: ``/nonexistent`` is the name of one that is not to be.  Nothing is trusted below a temporary folder
    that another user could have filled.
    """
    user, temporary, why = user_folder(), temporary_folder(), dict[Path, str]()
    if user is None:
        why[Path("~", *names)] = "no home is known"
    else:
        place = user.joinpath(*names)
        home = user.parent.parent  # of ~/.cache/modelpar
        why[place] = obstacle(place) if os.path.isdir(home) else f"{home} does not exist"
        if not why[place]:
            return place, {}
    place = temporary.joinpath(*names)
    why[place] = _not_our_own(temporary) or obstacle(place)
    if not why[place]:
        del why[place]
        return place, why
    return None, why


def _not_our_own(folder: Path) -> str:
    """Why a temporary folder, made where it is missing, cannot be trusted; empty where it can."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    foreign = hasattr(os, "geteuid") and found.st_uid != os.geteuid()
    if not stat.S_ISDIR(found.st_mode) or foreign or found.st_mode & 0o022:
        return "it belongs to another user, or others may write there"
    return ""
