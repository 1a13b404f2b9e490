"""Which page is ours and may be written anew. Light: asked before anything is read."""

from __future__ import annotations

from pathlib import Path

GENERATOR = '<meta name="generator" content="rethinkgen report">'
"""What a page of ours, and no other, has in its head."""


def is_foreign(index: Path) -> bool:
    """Whether a page lies there that no ``report.py`` wrote."""
    return index.exists() and not (index.is_file() and GENERATOR in index.read_text(errors="replace"))
