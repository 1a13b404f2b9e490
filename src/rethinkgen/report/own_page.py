"""Which page is ours and may be written anew, and that it is written where it is asked for. Light: asked first."""

from __future__ import annotations

from pathlib import Path

from rethinkgen.errors import DamagedFileError
from rethinkgen.received import MOST_BYTES_OF_TABLE, read_bytes

GENERATOR = b'<meta name="generator" content="rethinkgen report">'
"""What a page of ours, and no other, has in its head."""
FOLDERS = ("tables", "figures")


def is_foreign(index: Path) -> bool:
    """Whether a page lies there that no ``report.py`` wrote."""
    try:
        content = read_bytes(index, MOST_BYTES_OF_TABLE)
    except DamagedFileError:
        return True  # a link, say: what is behind it is not ours to replace
    return content is not None and GENERATOR not in content


def check_is_own(folder: Path, *, is_chosen: bool = True) -> None:
    """Refuse a folder for the report from which a link leads elsewhere: it may have come with somebody's runs.

    ``is_chosen``: the user named the folder itself, which may be a link then.

    Raises:
        ValueError: there is such a link.
    """
    inside = [folder / name for name in FOLDERS]
    for path in inside if is_chosen else [folder, *inside]:
        if path.is_symlink():
            raise ValueError(
                f"{path} is a link, and the report is written through none. Take it away, or name another out=."
            )
