"""After ``pip install``, from a folder that has nothing of this clone: the built wheel in an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from conftest import TINY, Command, read_result
from wheel import install, variables

NETWORK = """\
import math

from torch import nn

from rethinkgen.train.classifier import Classifier


class MyNet(Classifier):
    def build(self, image_shape, num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), num_classes))
"""


def test_an_installed_wheel_is_all_one_needs(tmp_path: Path, train: Command) -> None:
    programs = install(Path(os.environ.get("RETHINKGEN_WHEEL_FOLDER") or tmp_path / "wheel"))
    here = tmp_path / "here"
    (here / "my configs" / "model").mkdir(parents=True)
    (here / "my configs" / "model" / "own.yaml").write_text("_target_: my_nets.MyNet\nlearning_rate: 0.1\n")
    (here / "my_nets.py").write_text(NETWORK)
    for name in ("yaml", "random", "selectors", "socket", "torch", "hydra"):
        # Such as lie in a folder that one was sent. None may take the place of what is installed.
        (here / f"{name}.py").write_text(f"open({str(here / 'taken')!r}, 'w').close()\nraise SystemExit('{name}')\n")

    def sh(line: str) -> str:
        done = subprocess.run(["bash", "-c", line], cwd=here, env=variables(programs), capture_output=True, text=True)
        assert not (here / "taken").exists(), line
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    tiny = [*(word for word in TINY if not word.startswith(("trainer", "model"))), "max_steps=5"]
    own = "--config-dir 'my configs' code=my_nets model=mlp_1x512,own trainer=cpu,ddp_cpu"
    sweep = f"rethinkgen train -m {own} {' '.join(tiny)}"
    said = sh(sweep)
    results = [read_result(path.parent) for path in here.glob("multirun/runs/*/result.json")]
    kinds = sorted((result["choices"]["model"], result["world_size"]) for result in results)
    assert kinds == [("mlp_1x512", 1), ("mlp_1x512", 2), ("own", 1), ("own", 2)]
    assert {result["commit"] for result in results} == {None}
    ours = [result["run_id"] for result in results if result["choices"]["model"] == "mlp_1x512"]
    assert read_result(train(*tiny, "model=mlp_1x512", "trainer=cpu"))["run_id"] in ours
    (report,) = re.findall(r"^  (rethinkgen report .*)$", said, flags=re.MULTILINE)
    assert "4 of 4 runs finished." in sh(report)
    assert "rethinkgen train -m --config-dir" in (here / "multirun/runs/report/index.html").read_text()
    assert "4 of 4 runs were finished before." in sh(sweep)
