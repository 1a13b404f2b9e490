from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from rethinkgen.run import command
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.screen import next_command, sentence


@pytest.fixture(autouse=True)
def _in_an_active_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "python", lambda: ["python"])
    monkeypatch.chdir(ROOT)  # where report.py is


def result(corruption: str, fit: float, test: float, steps_to_fit: int | None, *overrides: str) -> dict[str, Any]:
    metrics = {"fit/accuracy": fit, "test/accuracy": test, "steps_to_fit": steps_to_fit, "steps": 500}
    return {
        "metrics": metrics | {"steps_to_fit_0.99": 400 if fit > 0.99 else None},
        "choices": {"data": "digits", "data.corruption": corruption, "schedule": "exponential", "regularizer": []},
        "overrides": list(overrides),
        "config": {"data": {"name": "digits"}},
        "num_classes": 10,
        "fitted": steps_to_fit is not None,
        "reason": "the budget of 500 steps is used up",
    }


def test_what_was_seen_and_what_to_try_next(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "digits-run")
    true = result("none", 1, 0.98, 300, "model=alexnet", "regularizer=[flip]")
    assert sentence(true) == "none: fit 100 %, test 98 % (chance 10 %): fitted in 300 steps."
    _, proposed = next_command(true, folder) or ("", "")
    assert proposed == "python train.py model=alexnet 'regularizer=[flip]' data.corruption=random_labels"
    random = result("random_labels", 1, 0.1, 1234, "data.corruption=random_labels")
    assert sentence(random) == "random_labels: fit 100 %, test 10 % (chance 10 %): memorised in 1,234 steps."
    assert (next_command(random, folder) or ("", ""))[1] == f"python report.py {tmp_path}"
    given = ("seed=1", "data.corruption=partial_labels", "++data.corruption.probability=0.1", "data.corruption_like=1")
    partial = result("partial_labels", 1, 0.5, 1234, *given)
    expected = "python train.py seed=1 data.corruption_like=1 data.corruption=none"
    assert (next_command(partial, folder) or ("", ""))[1] == expected
    (tmp_path / "digits-none-run").mkdir()
    (tmp_path / "digits-none-run" / "result.json").touch()
    told = next_command(partial, folder)
    assert told == ("Tables and figures of this run and all beside it:", f"python report.py {tmp_path}")


def test_who_brought_images_and_labels_is_shown_which_were_learnt_last(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    own = result("none", 1, 0.9, 30, "data=image_folder")
    own["config"]["data"]["name"] = "image_folder"
    assert next_command(own, folder) == (
        "Tables and figures of this run and all beside it:",
        f"python report.py {tmp_path.parent}",
    )
    folder.examples_by_name.touch()
    assert (next_command(own, folder) or ("", ""))[1] == str(folder.examples_by_name)
    unfitted = own | {"fitted": False, "config": {"max_epochs": 100}}
    assert (next_command(unfitted, folder) or ("", ""))[1] == "python train.py data=image_folder max_epochs=200"


def test_what_was_not_fitted(tmp_path: Path) -> None:
    nearly = result("none", 0.9999, 0.5, None)
    assert "fit > 99.9 %" in sentence(nearly)
    assert "99 % fitted in 400 steps, but not all; the budget of 500 steps is used up." in sentence(nearly)
    far = result("random_labels", 0.5, 0.1, None, "data.corruption=random_labels")
    assert "not fitted; the budget" in sentence(far)
    expected = "python train.py data.corruption=random_labels max_steps=1000 schedule.factor=0.98"
    assert (next_command(far, RunFolder(tmp_path)) or ("", ""))[1] == expected
    assert next_command(result("none", 0.5, 0.1, None, "max_steps=500"), RunFolder(tmp_path)) is None
