"""Every mistake of a user's is told in a line that names the key and what is allowed, and leaves nothing behind."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from PIL import Image

from conftest import TINY, Command, read_result
from outcomes import assert_same, outcome
from rethinkgen.run.folder import RunFolder
from rethinkgen.train.checkpoint import load_checkpoint

Refused = Callable[..., str]


@pytest.fixture
def refused(train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused before training, with no traceback and nothing left; return what it said."""

    def run(*overrides: str) -> str:
        with pytest.raises(SystemExit) as end:
            train(*overrides)
        assert end.value.code == 1
        assert files_of_runs(tmp_path) == []
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        assert "Error: " in captured.err
        return captured.err.split("Error: ", 1)[1]

    return run


def files_of_runs(tmp_path: Path) -> list[Path]:
    return sorted(path for path in tmp_path.glob("multirun/*/*"))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("seed=abc", "seed='abc': a whole number of at least 0"),
        ("seed=-1", "seed=-1: a whole number of at least 0"),
        ("seed=1.5", "seed=1.5: a whole number"),
        ("seed=???", "seed"),
        ("sweep=é", "Hydra reads it in quotes only, which the shell must leave: \"sweep='é'\""),
        ("seed='${nowhere}'", "nowhere"),
        ("max_steps=-1", "max_steps=-1: a whole number of at least 1"),
        ("max_steps=1.5", "max_steps=1.5: a whole number of at least 1"),
        ("max_steps=null", "max_steps=None: a whole number of at least 1"),
        ("max_epochs=0", "max_epochs=0: a number above 0"),
        ("max_epochs=nan", "max_epochs=nan: a finite number"),
        ("until_fit=maybe", "until_fit='maybe': true or false"),
        ("fit_threshold=2", "fit_threshold=2: a number from 0 to 1"),
        ("evaluate_every=x", "evaluate_every='x': a number above 0"),
        ("evaluate_every=0", "evaluate_every=0: a number above 0"),
        ("log_every=0", "log_every=0: a whole number of at least 1"),
        ("results_dir=null", "results_dir=None: the path of a folder"),
        ("results_dir=/dev/null", "results_dir='/dev/null': /dev/null is not a folder"),
        ("sweep=a/../b", "sweep='a/../b': a name of letters"),
        ("sweep=null", "sweep=None: a name of letters"),
        ("rerun=perhaps", "rerun='perhaps': true or false"),
        ("threads=0", "threads=0: a whole number of at least 1"),
        ("threads=two", "threads='two': a whole number of at least 1"),
        ("checkpoint_seconds=-1", "checkpoint_seconds=-1: a number from 0"),
        ("checkpoint_seconds=soon", "checkpoint_seconds='soon': a number from 0"),
        ("data.corruption=partial_labels data.corruption.probability=1.5", "data.corruption.probability=1.5: a number"),
        ("data.corruption=partial_labels data.corruption.probability=nan", "probability=nan: a finite number"),
        ("data.corruption=partial_labels data.corruption.probability=half", "probability='half': a number"),
        ("data.corruption=gaussian_blend data.corruption.strength=-1", "strength=-1: a number"),
        ("data.corruption=noisy_inputs data.corruption.fraction=2", "data.corruption.fraction=2: a number from 0 to 1"),
        ("data.batch_size=-3", "data.batch_size=-3: a whole number of at least 1"),
        ("data.batch_size=5000", "data.batch_size=5000 is larger than the training set of 1437 examples"),
        ("data.num_train=-1", "data.num_train=-1: a whole number of at least 1"),
        ("data.num_train=100000", "data.num_train=100000: at most 1437"),
        ("data.validation=1.0", "data.validation=1.0: a number from 0 to below 1"),
        ("data.crop=-1", "data.crop=-1: a whole number of at least 1"),
        ("data.crop=9", "data.crop=9: images are 8x8; at most 8"),
        ("data.preprocessing=black", "data.preprocessing='black': one of whitening, normalization, unit_sphere, "),
        ("data.seed=abc", "data.seed='abc': a whole number of at least 0"),
        ("data.source._target_=os.system", "os.system"),
        ("+data.source.colour=red", "rethinkgen.data.source.Digits has no such option. It has parts."),
        ("model.width=-3", "model.width=-3: a whole number of at least 1"),
        ("model.depth=-1", "model.depth=-1: a whole number of at least 0"),
        ("model.depth=0", "model.depth=0 model.width=16: a linear model has no hidden units; model=linear is it"),
        ("model.width=[8,6]", "model.width=[8, 6] model.depth=1: as many hidden layers as widths are needed"),
        ("model.learning_rate=-1", "model.learning_rate=-1: a number above 0"),
        ("model.learning_rate=fast", "model.learning_rate='fast': a number above 0"),
        ("+model.colour=red", "model.colour='red': rethinkgen.model.mlp.MLP has no such option"),
        ("+data.colour=red", "data.colour='red': rethinkgen.data.corruption.TrueLabels has no such option"),
        ("+optimizer.colour=red", "optimizer.colour='red': torch.optim.SGD has no such option"),
        ("regularizer=[early_stopping]", "add data.validation=0.1"),
        ("regularizer.weight_decay=-1", "regularizer.weight_decay=-1: a number from 0"),
        ("regularizer.dropout=1.5", "regularizer.dropout=1.5: a number from 0 to below 1"),
        ("regularizer.flip=7", "regularizer.flip=7: true or false"),
        ("regularizer.label_smoothing=2", "regularizer.label_smoothing=2: a number from 0 to below 1"),
        ("optimizer.momentum=-1", "optimizer.momentum=-1"),
        ("optimizer.lr=fast", "optimizer.lr='fast'"),
        ("schedule.every=0", "schedule.every=0: a number above 0"),
        ("schedule=step schedule.at=0.3", "schedule.at=0.3"),
        ("trainer.precision=7", "trainer.precision=7"),
        ("trainer.devices=many", "trainer.devices='many'"),
        ("nonsense=1", "nonsense=1: there is no such key"),
        ("model", "missing EQUAL"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_allowed(refused: Refused, overrides: str, said: str) -> None:
    assert said in refused(*TINY, *overrides.split(" "))


@pytest.mark.parametrize(
    ("override", "options"),
    [
        ("data.corruption=nothing", ["partial_labels", "random_labels", "shuffled_pixels"]),
        ("model=transformer", ["inception", "mlp_1x512"]),
        ("regularizer=[weight_decay,hope]", ["dropout", "early_stopping", "weight_decay"]),
    ],
)
def test_an_unknown_choice_lists_the_options(refused: Refused, override: str, options: list[str]) -> None:
    assert set(options) <= set(refused(override).split())


@pytest.mark.parametrize("model", ["inception", "alexnet"])
def test_images_too_small_for_the_model(refused: Refused, model: str) -> None:
    message = refused(f"model={model}", "data.crop=3", "trainer=cpu", "logger=none")
    assert f"{model} needs images of at least 4x4 pixels, these are 3x3" in message


def image_folder(root: Path, **images: tuple[int, int]) -> list[str]:
    """Make grey images ``split__class__name=(height, width)``."""
    for key, size in images.items():
        path = root.joinpath(*key.split("__")).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 100).save(path)
    return ["data=image_folder", f"data.root={root}", "data.batch_size=1", "data.source.num_workers=1"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("model=linear regularizer=[hidden_noise]", "regularizer=[hidden_noise]: MLP has no torch.nn.ReLU"),
        ("model=mlp_1x512 regularizer=[adversarial,mixup]", "a mixed image has two labels. Train without"),
        ("model=mlp_1x512 regularizer=[input_noise,input_dropout]", "of those that change the batch only one can act"),
    ],
)
def test_regularizers_that_do_not_go_together_or_with_the_network(refused: Refused, overrides: str, said: str) -> None:
    assert said in refused(*[each for each in TINY if not each.startswith("model")], *overrides.split(" "))


def test_a_data_folder_that_is_missing_or_unfit(refused: Refused, tmp_path: Path) -> None:
    size = (8, 8)
    assert "there is no folder" in refused(*TINY, *image_folder(tmp_path / "missing"))
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "test").mkdir()
    assert "train is empty" in refused(*TINY, *image_folder(tmp_path / "empty"))
    one = image_folder(tmp_path / "one", train__cat__1=size, test__cat__1=size)
    assert "there is one class, cat" in refused(*TINY, *one)
    differing = image_folder(
        tmp_path / "differ", train__cat__1=size, train__dog__1=size, test__cat__1=size, test__cow__1=size
    )
    message = refused(*TINY, *differing)
    assert "only in train: dog" in message
    assert "only in test: cow" in message
    good = {"train__cat__1": size, "train__dog__1": size, "test__cat__1": size, "test__dog__1": size}
    mixed = image_folder(tmp_path / "mixed", **good | {"train__dog__1": (9, 8)})
    assert "train/dog/1.png" in refused(*TINY, *mixed)
    unreadable = image_folder(tmp_path / "unreadable", **good)
    (tmp_path / "unreadable/train/dog/1.png").write_text("no image")
    assert "train/dog/1.png" in refused(*TINY, *unreadable)


def test_a_wrong_command_for_a_finished_run_leaves_its_result(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*TINY, "max_steps=5")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit):
        train(*TINY, "max_steps=5", "rerun=true", "threads=0")
    assert "threads=0" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_in_a_sweep_a_wrong_value_is_told_before_anything_starts(refused: Refused) -> None:
    assert "seed=-1: a whole number" in refused("-m", *TINY, "max_steps=5", "seed=-1,0")
    assert "optimizer.momentum=2: a number from 0 to below 1" in refused("-m", *TINY, "optimizer.momentum=2,0.9")
    assert "no value at all" in refused("-m", *TINY, "seed=range(0,0)")


def test_in_a_sweep_the_other_runs_go_on(train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train("-m", *TINY, "max_steps=5", "data.num_train=5000,200")
    assert end.value.code == 1
    assert "failed: data.num_train=5000: at most 1437" in capsys.readouterr().out
    (result,) = tmp_path.glob("multirun/runs/*/result.json")
    assert read_result(result.parent)["seed"] == 0
    (status,) = tmp_path.glob("multirun/runs/*/status.json")
    assert json.loads(status.read_text())["choices"]["model"] == "mlp_1x512"


def test_a_loss_that_is_no_number_ends_the_run_as_failed(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The rate rises: the first epochs are good, and leave a checkpoint.
    rising = [
        "model.learning_rate=0.01",
        "schedule.factor=1e10",
        "schedule.every=12",
        "max_steps=100",
        "checkpoint_seconds=0",
    ]
    with pytest.raises(SystemExit) as end:
        train(*TINY, *rising)
    assert end.value.code == 1
    message = capsys.readouterr().err
    assert "the training loss became" in message
    assert "Try a smaller learning rate, for example optimizer.lr=0.001" in message
    assert "its last good checkpoint stay" in message
    assert "Traceback" not in message
    (status,) = tmp_path.glob("multirun/runs/*/status.json")
    details = json.loads(status.read_text())
    assert details["state"] == "failed"
    assert "Try a smaller learning rate" in details["reason"]
    assert "TrainingDivergedError" in details["traceback"]
    weights = load_checkpoint(status.parent / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(math.isfinite(float(value.double().sum())) for value in weights.values())
    assert (status.parent / "metrics.csv").exists()
    assert (status.parent / "config.yaml").exists()


def on_a_full_disk(folder: Path, num_bytes: int, *overrides: str) -> None:
    """Body of a process that can write no file longer than ``num_bytes``."""
    from conftest import in_own_process

    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
    in_own_process(folder, *overrides)


def test_a_full_disk_keeps_the_checkpoint_before(
    train: Command, start: Callable[..., BaseProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = [*TINY, "max_steps=240", "evaluate_every=20", "checkpoint_seconds=0"]
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "remove_checkpoints", lambda _: None)
        undisturbed = train(*run)
    size = (undisturbed / "checkpoints/last.ckpt").stat().st_size
    # The window of steps for the running loss grows from epoch to epoch, and the checkpoint with it.
    process = start(f"results_dir={tmp_path}/full", *run, body=on_a_full_disk, arguments=(size - 500,))
    process.join()
    output = (tmp_path / "output.txt").read_text()
    assert process.exitcode == 1, output
    assert "there is no room left to write the run's files" in output
    assert "last.ckpt'" in output
    assert "Traceback" not in output
    (status,) = tmp_path.glob("full/runs/*/status.json")
    assert json.loads(status.read_text())["state"] == "failed"
    kept = sorted(path.name for path in (status.parent / "checkpoints").iterdir())
    assert kept == ["last.ckpt", "previous.ckpt"]
    start(f"results_dir={tmp_path}/full", *run).join()
    assert "Going on from step" in (tmp_path / "output.txt").read_text()
    assert_same(outcome(status.parent), outcome(undisturbed))


def test_a_disk_that_is_full_from_the_start(train: Command, start: Callable[..., BaseProcess], tmp_path: Path) -> None:
    size = (train(*TINY, "max_steps=5") / "weights/end.pt").stat().st_size
    process = start(f"results_dir={tmp_path}/full", *TINY, "max_steps=5", body=on_a_full_disk, arguments=(size,))
    process.join()
    output = (tmp_path / "output.txt").read_text()
    assert process.exitcode == 1, output
    assert "File too large" in output
    assert "last.ckpt'" in output
    assert "Traceback" not in output
    assert "The run's folder stays" in output
    (checkpoints,) = tmp_path.glob("full/runs/*/checkpoints")
    assert list(checkpoints.iterdir()) == []


def test_a_folder_that_holds_another_run_says_what_differs(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"hydra.run.dir={tmp_path}/multirun/runs/mine"
    first = train(*TINY, "max_steps=5", folder)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.name != "train.log" and path.is_file()}
    with pytest.raises(SystemExit) as end:
        train(*TINY, "max_steps=6", "seed=3", "regularizer=[flip]", folder)
    assert end.value.code == 1
    message = capsys.readouterr().err
    assert "holds another run" in message
    assert "\n  max_steps: 5 there, 6 here\n" in message
    assert "\n  seed: 0 there, 3 here\n" in message
    assert "\n  regularizer.flip: False there, True here\n" in message
    assert "threads" not in message
    assert {path: path.read_bytes() for path in before} == before


def test_our_own_bug_shows_its_traceback(
    train: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rethinkgen.train.evaluation import Evaluation

    def broken(*_: object) -> None:
        raise ValueError("a bug of ours")

    monkeypatch.setattr(Evaluation, "evaluate", broken)
    with pytest.raises(SystemExit) as end:
        train(*TINY, "max_steps=5")
    assert end.value.code == 1
    assert "in broken" in capsys.readouterr().err
    (status,) = tmp_path.glob("multirun/runs/*/status.json")
    assert "in broken" in json.loads(status.read_text())["traceback"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.dropout=0.5"], "set regularizer.dropout=0.5 instead"),
        (["data.flip=true"], "set regularizer.flip=True instead"),
        (["data.random_crop=true"], "set regularizer.random_crop=True instead"),
        (["optimizer.weight_decay=5e-4"], "set regularizer.weight_decay=0.0005 instead"),
        (["optimizer=adam", "model.learning_rate=0.1"], "set optimizer.lr (now 0.001)"),
        (["max_steps=3", "max_epochs=1"], "give one of them"),
        (
            ["data=image_folder", "max_epochs=null"],
            "max_steps=None max_epochs=None: one of them is needed",
        ),
        (["+trainer.max_time=3"], "trainer.max_time=3: it is not set here. Instead: "),
        (["+trainer.logger=false"], "trainer.logger=False: it is not set here. Instead: logger=wandb"),
        (["+data.corruption.seed=3"], "seed of rethinkgen.data.corruption.TrueLabels: not set here"),
    ],
)
def test_a_key_that_would_act_unseen_or_not_at_all(
    train: Command, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        train(*[item for item in TINY if not item.startswith("trainer=")], "trainer=cpu", *overrides)
    assert message in capsys.readouterr().err


def test_a_precision_that_needs_scaled_gradients_is_refused() -> None:
    from types import SimpleNamespace

    from rethinkgen.run.ranks import Ranks
    from rethinkgen.run.training import check_trainer

    plugin = SimpleNamespace(scaler=object())
    trainer = SimpleNamespace(num_devices=1, num_nodes=1, precision="16-mixed", precision_plugin=plugin)
    with pytest.raises(ValueError, match=r"trainer\.precision=16-mixed: 32-true, bf16-mixed or 64-true"):
        check_trainer(trainer, Ranks())  # type: ignore[arg-type]


def test_whoever_wants_tracebacks_gets_them(
    train: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        train(*TINY, "data.batch_size=5000")
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit):
        train(*TINY, "data.batch_size=5000")
    assert "Traceback" in capsys.readouterr().err


def test_an_experiment_with_a_sweep_says_that_it_is_one(refused: Refused) -> None:
    said = refused("+experiment=zhang2017/table_1", "data=digits")
    assert said.startswith("This experiment is a sweep, and needs -m:\n  ")
    assert " -m +experiment=zhang2017/table_1 data=digits" in said or " -m results_dir=" in said
    assert "needs -m" in refused("+experiment=tune_learning_rate")


def test_a_typo_in_an_experiment_lists_those_there_are(refused: Refused) -> None:
    assert " figure_1b\n" in refused("-m", "+experiment=zhang2017/figure_1x")
    said = refused("+experiment=tune")
    assert " tune_learning_rate\n" in said
    assert " zhang2017/figure_1b\n" in said


def test_experiments_refuse_what_their_sweeps_cannot_do(refused: Refused) -> None:
    assert "one data set a command" in refused("-m", "+experiment=zhang2017/table_4", "data=digits,mnist").lower()
    tuned = refused("-m", "hydra/sweeper=optuna", "+experiment=zhang2017/table_1", "data=digits")
    assert "hydra.sweeper.grids=null" in tuned
