"""A folder of runs that somebody sent is read, continued and reported on; nothing that its files name is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from conftest import TINY, Command
from rethinkgen.commands.report import main as report
from rethinkgen.run.folder import checksum

RUN = [*TINY, "max_steps=5"]


def poisoned(node: Any, attack: dict[str, Any]) -> Any:
    """Return ``node`` with ``attack`` wherever something is to be built, in JSON within JSON too."""
    if isinstance(node, dict):
        below = {key: poisoned(value, attack) for key, value in node.items()}
        return below | attack if "_target_" in node else below
    if isinstance(node, list):
        return [poisoned(item, attack) for item in node]
    if isinstance(node, str) and node.startswith("{"):
        return json.dumps(poisoned(json.loads(node), attack))
    return node


def poison(sweep: Path, attack: dict[str, Any]) -> None:
    poisoned_files = []
    for path in sweep.rglob("*"):
        if path.suffix == ".json":
            content = poisoned(json.loads(path.read_text()), attack)
            if "checksum" in content:
                content["checksum"] = checksum(content)
            path.write_text(json.dumps(content))
        elif path.suffix == ".jsonl":
            lines = [json.dumps(poisoned(json.loads(line), attack)) for line in path.read_text().splitlines()]
            path.write_text("".join(f"{line}\n" for line in lines))
        elif path.name == "config.yaml":
            path.write_text(OmegaConf.to_yaml(poisoned(OmegaConf.to_container(OmegaConf.load(path)), attack)))
        else:
            continue
        if "collect_env" in path.read_text():
            poisoned_files.append(path.name)
    assert {"config.yaml", "result.json", ".index.jsonl"} <= set(poisoned_files)


def test_nothing_in_it_is_built(train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary = tmp_path / "canary"
    attack = {"_target_": "torch.utils.collect_env.run", "command": f"touch {canary}"}
    train("-m", *RUN, "seed=0,1")
    sweep = tmp_path / "multirun" / "runs"
    poison(sweep, attack)
    # A sweep over what is there and what is not, a single run, a run in a folder that was named, and the report.
    train("-m", *RUN, "seed=0,1,2")
    for command in ([*RUN, "seed=0"], [*RUN, "seed=3", f"hydra.run.dir={next(sweep.glob('*seed1*'))}"]):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            train(*command)
        said = capsys.readouterr().err
        assert "holds another run" in said
        assert "data.source.class: torch.utils.collect_env.run there, Digits here" in said
    report([str(sweep)])
    assert (sweep / "report" / "index.html").is_file()
    assert not canary.exists()
