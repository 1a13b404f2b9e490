"""Which page is ours and may be written anew, and that it is written where it is asked for. Light: asked first."""

from __future__ import annotations

from pathlib import Path

from rethinkgen.errors import DamagedFileError
from rethinkgen.received import MOST_BYTES_OF_TABLE, read_bytes

GENERATOR = b'<meta name="generator" content="rethinkgen report">'
"""What a page of ours, and no other, has in its head."""
FOLDERS = ("tables", "figures")


def check_is_own(folder: Path, *, is_chosen: bool = True) -> None:
    """Refuse a folder for the report with a page that no ``report`` wrote, or from which a link leads elsewhere.

    A link may have come with somebody's runs; ``is_chosen``: the user named the folder itself, which may be one then.

    Raises:
        ValueError: there is such a page or link.
    """
    inside = [folder / name for name in FOLDERS]
    for path in inside if is_chosen else [folder, *inside]:
        if path.is_symlink():
            raise ValueError(
                f"{path} is a link, and the report is written through none. Take it away, or name another out=."
            )
    index = folder / "index.html"
    try:
        page = read_bytes(index, MOST_BYTES_OF_TABLE)
        is_foreign = page is not None and GENERATOR not in page
    except DamagedFileError:
        is_foreign = True  # a link, say: what is behind it is not ours to replace
    if is_foreign:
        raise ValueError(
            f"{index} is no report of ours, and would be replaced. Take it away, or name another folder: out=..."
        )
