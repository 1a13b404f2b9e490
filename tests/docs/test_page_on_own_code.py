"""Everything that ``docs/own_code.md`` shows, done as it says from a folder outside."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, Command, read_result
from rethinkgen.commands.report import main as report

TEXT = (ROOT / "docs/own_code.md").read_text(encoding="utf-8")
FILES = {
    path: content
    for block in re.findall(r"```(?:python|yaml)\n(.*?)```", TEXT, flags=re.DOTALL)
    for path, content in re.findall(r"^# (\S+\.\w+)\n(.*?)(?=^# \S+\.\w+\n|\Z)", block, flags=re.DOTALL | re.MULTILINE)
}
(BLOCK,) = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [shlex.split(line)[2:] for line in BLOCK.splitlines() if line.startswith("python train.py")]
(REPORT,) = [shlex.split(line)[2:] for line in BLOCK.splitlines() if line.startswith("python report.py")]
SHORT = ["max_steps=3", "threads=1", "logger=none", "trainer=cpu"]
KINDS = ("model", "data.corruption", "regularizer", "loss", "schedule", "optimizer", "data")


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    yield tmp_path
    sys.modules.pop("my_code", None)


def test_each_kind_is_one_class_or_function_and_one_yaml() -> None:
    groups = {Path(name).parent.name: content for name, content in FILES.items() if name.endswith(".yaml")}
    assert groups.pop("my_conf").startswith("paper: mine"), "the claims"
    assert set(groups) == set(KINDS)
    names = {
        name for content in groups.values() for name in re.findall(r"my_code\.(\w+)", str(yaml.safe_load(content)))
    }
    assert names == set(re.findall(r"^(?:class|def) (\w+)", FILES["my_code.py"], flags=re.MULTILINE))


def test_both_commands_and_the_report_of_both(
    outside: Path, train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in COMMANDS:  # in this process, for the time's sake: own code in the pool has tests of its own
        train(*words[:1], "hydra/launcher=basic", *words[1:], *SHORT)
    results = [read_result(path.parent) for path in outside.glob("multirun/mine/*/result.json")]
    assert len(results) == 6
    assert all(set(result["code"]) <= {"my_code"} for result in results)
    chosen = {group: {str(result["choices"][group]) for result in results} for group in KINDS}
    assert chosen["regularizer"] == {"[]", "['small_activations']"}
    assert {Path(name).stem for name in FILES if name.endswith(".yaml") and "/claims" not in name} <= set().union(
        *chosen.values()
    ) | {"small_activations"}
    corrupted = [result for result in results if result["choices"]["data.corruption"] == "even_labels"]
    assert {result["metrics"]["noise/probability"] for result in corrupted} == {0.5}
    # The report opens no package, and calls each by its name.
    sys.modules.pop("my_code", None)
    capsys.readouterr()
    assert report(REPORT) == 0
    assert "my_code" not in sys.modules
    tables = "".join(path.read_text() for path in outside.glob("multirun/mine/report/tables/grid_*.md"))
    assert {"my_net", "even_labels 0.5", "small_activations", "adamw", "sgd"} <= {
        cell.strip() for cell in re.split(r"[|\n:]", tables)
    }
    assert "my_code" not in tables
    claims = (outside / "multirun/mine/report/tables/claims.md").read_text()
    (ours,) = re.findall(r"^\| Even labels: .*\| (.*?) \|$", claims, flags=re.MULTILINE)
    assert ours in ("reproduced", "not reproduced", "cannot tell"), "it is within what it asks for"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "bound: 20",
            "bond: 20",
            "claims=my_conf/claims.yaml, claim even.learnt: rule: bond: no such key; allowed are kind, because, bound.",
        ),
        ("id: even.learnt", "id: table_1.alexnet.parameters", "there is one of this id already"),
        ("items:", "items: 3 #", "claims=my_conf/claims.yaml: "),
        ("paper: mine", "paper: [", "claims=my_conf/claims.yaml: not YAML"),
    ],
)
def test_a_claim_that_cannot_be_is_told_before_any_work(
    outside: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    file = outside / "my_conf/claims.yaml"
    file.write_text(file.read_text().replace(old, new))
    (outside / "multirun").mkdir()
    assert report(["multirun", "claims=my_conf/claims.yaml"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert report(["multirun", "claims=none.yaml"]) == 2
    assert "claims=none.yaml: there is no such file" in capsys.readouterr().err


def test_a_value_is_read_where_it_acts_and_refused_elsewhere(
    outside: Path, train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (outside / "my_conf/regularizer/my_value.yaml").write_text("my_value: 8\n")
    (outside / "my_conf/model/my_net.yaml").write_text(
        "{_target_: my_code.MyNet, channels: '${oc.select:regularizer.my_value,16}', learning_rate: 0.05}\n"
    )
    mine = ["--config-dir", "my_conf", "code=my_code", *SHORT]
    plain, valued = (train(*mine, "model=my_net", f"regularizer={value}") for value in ("[]", "[my_value]"))
    assert read_result(valued)["choices"]["regularizer"] == ["my_value"]
    assert read_result(plain)["metrics"]["num_parameters"] > read_result(valued)["metrics"]["num_parameters"]
    assert plain.name != valued.name
    with pytest.raises(SystemExit):
        train(*mine, "model=mlp_1x512", "regularizer=[my_value]")
    assert "regularizer.my_value=8 does not act here" in capsys.readouterr().err
