"""An environment of its own with rethinkgen from a wheel, as ``pip install`` leaves it: nothing of this clone."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def install(folder: Path) -> Path:
    """Build the wheel, install it with the versions of here, and return the environment's ``bin``; once a folder."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes run tests
        if not (folder / "done").exists():
            _install(folder)
    return folder / "environment" / "bin"


def _install(folder: Path) -> None:
    _uv("build", "--wheel", "--out-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    versions = folder / "versions.txt"
    versions.write_text(_uv("pip", "freeze", "--python", sys.executable, "--exclude-editable"))
    _uv("venv", "--clear", "--python", sys.executable, str(folder / "environment"))
    # Linked, not copied, from uv's cache; Python compiles what is imported.
    where = ["--link-mode", "hardlink", "--python", str(folder / "environment" / "bin" / "python")]
    _uv("pip", "install", *where, "--constraints", str(versions), f"{wheel}[slurm]")
    (folder / "done").touch()


def _uv(*words: str) -> str:
    done = subprocess.run(["uv", *words], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def variables(programs: Path) -> dict[str, str]:
    """Return the environment variables of a user who has activated it."""
    ours = ("PYTHON", "UV_", "VIRTUAL_ENV", "PYTEST", "COV", "RETHINKGEN", "OMP_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def plant_modules(folder: Path) -> Path:
    """Leave modules such as may lie in a folder that one was sent; return the file that comes of importing one.

    None may take the place of what is installed, whatever process a command starts there.
    """
    taken = folder / "taken.txt"
    for name in ("yaml", "random", "selectors", "socket", "torch", "hydra", "submitit"):
        program = f"import pathlib\npathlib.Path({str(taken)!r}).write_text({name!r})\nraise SystemExit({name!r})\n"
        (folder / f"{name}.py").write_text(program)
    return taken
