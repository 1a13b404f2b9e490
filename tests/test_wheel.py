"""After ``pip install``, from a folder that has nothing of this clone: the built wheel in an environment of its own."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from conftest import TINY, Command, read_result
from installed import plant_modules, variables

NETWORK = """\
import math

from torch import nn

from rethinkgen.train.classifier import Classifier


class MyNet(Classifier):
    def build(self, image_shape, num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), num_classes))
"""


def test_an_installed_wheel_is_all_one_needs(installed_wheel: Path, tmp_path: Path, train: Command) -> None:
    here = tmp_path / "here"
    (here / "my configs" / "model").mkdir(parents=True)
    (here / "my configs" / "model" / "own.yaml").write_text("_target_: my_nets.MyNet\nlearning_rate: 0.1\n")
    (here / "my_nets.py").write_text(NETWORK)
    taken = plant_modules(here)

    def sh(line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=here, env=variables(installed_wheel), capture_output=True, text=True
        )
        assert not taken.exists(), line
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    tiny = [*(word for word in TINY if not word.startswith(("trainer", "model"))), "max_steps=5"]
    own = "--config-dir 'my configs' code=my_nets model=mlp_1x512,own trainer=ddp_cpu"
    sweep = f"rethinkgen train -m {own} {' '.join(tiny)}"
    said = sh(sweep)
    results = [read_result(path.parent) for path in here.glob("multirun/runs/*/result.json")]
    kinds = sorted((result["choices"]["model"], result["world_size"]) for result in results)
    assert kinds == [("mlp_1x512", 2), ("own", 2)]
    assert {result["commit"] for result in results} == {None}
    as_in_the_clone = read_result(train(*tiny, "model=mlp_1x512", "trainer=cpu"))["run_id"]
    assert as_in_the_clone in {result["run_id"] for result in results}
    (report,) = re.findall(r"^  (rethinkgen report .*)$", said, flags=re.MULTILINE)
    assert "2 of 2 runs finished." in sh(report)
    assert "rethinkgen train -m --config-dir" in (here / "multirun/runs/report/index.html").read_text()
    assert "2 of 2 runs were finished before." in sh(sweep)
