"""W&B mirrors a run's own files, and whatever it does it neither ends a run nor changes its numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY, Command, read_result
from outcomes import assert_same, outcome
from rethinkgen.run.wandb_mirror import without_places

RUN = [*(override for override in TINY if override != "logger=none"), "max_steps=30", "regularizer=[flip,dropout]"]
KEY = "recognisable0key0that0must0never0be0seen"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No account, no network, no settings of this machine's user; and no service left running."""
    for name in ("WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    yield
    if "wandb" in sys.modules:
        import wandb

        wandb.teardown()


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Outcome of the run without W&B."""
    from conftest import command_line

    results = tmp_path_factory.mktemp("without")
    command_line(f"results_dir={results}", *RUN, "logger=none")
    (result,) = results.glob("*/*/result.json")
    return outcome(result.parent)


def test_the_offline_files_tell_the_run(
    train: Command, without: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    given: list[dict[str, Any]] = []
    init = wandb.init

    def noted(**keywords: Any) -> Any:
        given.append(keywords)
        return init(**keywords)

    monkeypatch.setattr(wandb, "init", noted)
    folder = train(*RUN, "sweep=mine")
    result = read_result(folder)
    assert wandb.run is None, "a run left open takes in the next run of this process"

    (opened,) = given
    assert (opened["id"], opened["group"], opened["job_type"]) == (result["run_id"], "mine", "train")
    assert {"data=digits", "data.corruption=none", "model=mlp_1x512", "flip", "dropout"} <= set(opened["tags"])
    assert opened["config"].pop("choices").items() >= {"data_corruption": "none", "regularizer": "dropout+flip"}.items()
    assert opened["config"].pop("folder") == f"mine/{folder.name}"
    assert opened["config"] == without_places(result["config"])
    wandb.teardown()  # what has been logged is on the disk only now
    (written,) = folder.glob(f"wandb/offline-run-*-{result['run_id']}/run-{result['run_id']}.wandb")
    content = written.read_bytes()
    for expected in (
        "mine",
        "data.corruption=none",
        "mlp_1x512",
        "fit/accuracy",
        "steps_to_fit",
        "trainer/global_step",
    ):
        assert expected.encode() in content, expected

    ours = outcome(folder)
    assert ours["result"].pop("sweep") == "mine"
    assert_same(ours, without | {"result": {key: value for key, value in without["result"].items() if key != "sweep"}})
    assert all(KEY.encode() not in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert KEY not in "".join(capfd.readouterr())


class Broken:
    """A W&B run of which one method raises."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.called: list[str] = []
        self.summary = self.config = self
        self.offline = self.disabled = False

    def _call(self, name: str) -> None:
        self.called.append(name)
        if name == self.method:
            raise ConnectionError(f"{name} is broken")

    def define_metric(self, *_: Any, **__: Any) -> None:
        self._call("define_metric")

    def log(self, *_: Any) -> None:
        self._call("log")

    def update(self, *_: Any, **__: Any) -> None:
        self._call("update")

    def finish(self, exit_code: int) -> None:
        self._call("finish")


@pytest.mark.parametrize("method", ["define_metric", "log", "update", "finish"])
def test_a_broken_run_is_left_alone(
    train: Command, without: dict[str, Any], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    import wandb

    broken = Broken(method)
    monkeypatch.setattr(wandb, "init", lambda **_: broken)
    folder = train(*RUN)
    assert_same(outcome(folder), without)
    assert broken.called.count(method) == 1, "it is not asked again and again"
    assert broken.called[-1] == "finish", "what was opened is closed, or tried to be"
    log = (folder / "train.log").read_text()
    assert log.count("W&B failed") == 1
    assert f"{method} is broken" in log


def cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)


def cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def init(**_: Any) -> None:
        raise wandb.errors.CommError("no answer")

    monkeypatch.setattr(wandb, "init", init)


def has_wrong_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "sometimes")


@pytest.mark.parametrize("is_broken", [cannot_be_imported, cannot_be_opened, has_wrong_settings])
def test_without_it_the_run_goes_on_and_says_so(
    train: Command,
    without: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    is_broken: Callable[[pytest.MonkeyPatch], None],
) -> None:
    with monkeypatch.context() as patch:
        is_broken(patch)
        folder = train(*RUN)
    assert_same(outcome(folder), without)
    assert "W&B failed" in (folder / "train.log").read_text()


def test_it_can_be_switched_off(train: Command, without: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    folder = train(*RUN)
    assert_same(outcome(folder), without)
    assert list(folder.rglob("*.wandb")) == []
    assert "W&B failed" not in (folder / "train.log").read_text()


def test_a_folder_it_cannot_write_to(train: Command, without: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "multirun" / "runs" / f"digits-none-mlp_1x512-dropout-flip-seed0-{without['result']['run_id']}"
    folder.mkdir(parents=True)
    (folder / "wandb").write_text("in the way")
    assert train(*RUN) == folder
    assert_same(outcome(folder), without)


def test_no_answer_from_the_server_means_offline(
    train: Command, without: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    init, modes = wandb.init, []

    def unreachable(**keywords: Any) -> Any:
        modes.append(keywords["mode"])
        if keywords["mode"] == "online":
            raise wandb.errors.CommError("no answer")
        return init(**keywords)

    monkeypatch.setattr(wandb, "init", unreachable)
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setenv("WANDB_MODE", "online")
    folder = train(*RUN)
    assert modes == ["online", "offline"]
    assert_same(outcome(folder), without)
    assert len(list(folder.rglob("*.wandb"))) == 1
    assert "This run is logged to W&B offline: no answer" in (folder / "train.log").read_text()
