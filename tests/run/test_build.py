"""What a place of the config accepts: ours by name, of few others what it wants, one's own where a command opens it."""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from conftest import ROOT
from rethinkgen.run import own_code
from rethinkgen.run.build import PLACES, build, names_of_ours

CONF = ROOT / "conf"
NEEDED = {"torch.optim", "pytorch_lightning", "pytorch_lightning.loggers", "optuna.samplers", "optuna.samplers.nsgaii"}
"""Foreign modules that may be imported to find out what is of which kind."""


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path(self.path),)


def attacks(folder: Path) -> list[dict[str, Any]]:
    """Return nodes that leave ``folder/canary``, import what does, or reach for what could."""
    canary = str(folder / "canary")
    touch = f"touch {canary}"
    loaded = folder / "pickled.pt"
    loaded.write_bytes(pickle.dumps(_Touch(Path(canary))))
    (folder / "hubconf.py").write_text(f"open({canary!r}, 'w')\ndef network(): ...\n")
    (folder / "canary_package.py").write_text(f"open({canary!r}, 'w')\ndef network(*a, **k): ...\nclass MLP: ...\n")
    open_it: dict[str, Any] = {"file": canary, "mode": "w"}
    nodes = [
        ("os.system", {"command": touch}),
        ("os.mkdir", {"path": canary}),
        ("os.popen", {"cmd": touch}),
        ("os.execv", {"path": "/bin/sh", "argv": ["sh", "-c", touch]}),
        ("posix.system", {"command": touch}),
        ("subprocess.run", {"args": touch, "shell": True}),
        ("subprocess.Popen", {"args": touch, "shell": True}),
        ("subprocess.check_output", {"args": touch, "shell": True}),
        ("builtins.eval", {"source": f"open({canary!r}, 'w')"}),
        ("builtins.exec", {"_args_": [f"open({canary!r}, 'w')"]}),
        ("builtins.open", open_it),
        ("builtins.__import__", {"name": "canary_package"}),
        ("io.open", open_it),
        ("pathlib.Path.touch", {"self": canary}),
        ("shutil.copy", {"src": str(loaded), "dst": canary}),
        ("shutil.rmtree", {"path": canary}),
        ("importlib.import_module", {"name": "canary_package"}),
        ("runpy.run_path", {"path_name": str(folder / "canary_package.py")}),
        ("pickle.loads", {"_args_": ["x"]}),
        ("functools.partial", {"_args_": [{"_target_": "os.system", "_partial_": True}, touch]}),
        ("operator.methodcaller", {"_args_": ["system", touch]}),
        ("hydra.utils.call", {"config": {"_target_": "os.system", "command": touch}}),
        ("hydra.utils.instantiate", {"config": {"_target_": "os.system", "command": touch}}),
        ("hydra.utils.get_method", {"path": "os.system"}),
        ("omegaconf.OmegaConf.save", {"config": {}, "f": canary}),
        ("numpy.save", {"file": canary, "arr": [1]}),
        ("numpy.load", {"file": str(loaded), "allow_pickle": True}),
        ("torch.load", {"f": str(loaded), "weights_only": False}),
        ("torch.save", {"obj": 1, "f": canary}),
        ("torch.hub.load", {"repo_or_dir": str(folder), "model": "network", "source": "local"}),
        ("torch.hub.download_url_to_file", {"url": loaded.as_uri(), "dst": canary}),
        ("torch.jit.load", {"f": str(loaded)}),
        ("torch.package.PackageImporter", {"file_or_buffer": str(loaded)}),
        ("torch.package.PackageExporter", {"f": canary}),
        ("torch.onnx.export", {"model": None, "args": [], "f": canary}),
        ("torch.serialization.load", {"f": str(loaded), "weights_only": False}),
        ("torch.utils.collect_env.run", {"command": touch}),
        ("torch.utils.cpp_extension.load", {"name": "x", "sources": [canary]}),
        ("torch.utils.cpp_extension.subprocess.run", {"args": touch, "shell": True}),
        ("torch.utils.data.DataLoader", {"dataset": [1]}),
        ("torch.utils.model_zoo.load_url", {"url": loaded.as_uri(), "model_dir": str(folder)}),
        ("torch.distributed.run.main", {"args": ["--standalone", str(folder / "canary_package.py")]}),
        ("torch._dynamo.utils.istype", {"obj": 1, "allowed_types": 1}),
        ("torch._inductor.cpp_builder.run_compile_cmd", {"cmd_line": touch, "cwd": str(folder)}),
        ("torch.optim.sgd.sys.exit", {}),
        ("torch.optim.lr_scheduler", {}),
        ("torch.optim.lr_scheduler.warnings.warn", {"message": "x"}),
        ("torch.optim.functional", {}),
        ("torch.optim.swa_utils.AveragedModel", {"model": None}),
        ("torch.optim.*", {}),
        ("torchvision.datasets.utils.download_url", {"url": loaded.as_uri(), "root": str(folder)}),
        ("torchvision.datasets.MNIST", {"root": str(folder / "canary"), "download": True}),
        ("torchvision.datasets.utils.extract_archive", {"from_path": str(loaded), "to_path": canary}),
        ("wandb.init", {"dir": str(folder), "mode": "offline"}),
        ("wandb.sdk.lib.filesystem.mkdir_exists_ok", {"dir_name": canary}),
        ("wandb.util.subprocess.run", {"args": touch, "shell": True}),
        ("pytorch_lightning.cli.LightningCLI", {"model_class": None, "args": ["fit"]}),
        ("pytorch_lightning.callbacks.ModelCheckpoint", {"dirpath": canary}),
        ("pytorch_lightning.loggers.csv_logs.os.mkdir", {"path": canary}),
        ("pytorch_lightning.Trainer.fit", {"self": None, "model": None}),
        ("optuna.storages.RDBStorage", {"url": f"sqlite:///{canary}"}),
        ("optuna.create_study", {"storage": f"sqlite:///{canary}"}),
        ("rethinkgen.run.folder.write_atomically", {"path": canary, "text": "x"}),
        ("rethinkgen.run.folder.RunFolder", {"path": canary}),
        ("rethinkgen.run.build.build", {"config": {"_target_": "os.system", "command": touch}, "key": "model"}),
        ("rethinkgen.run.build.os.system", {"command": touch}),
        ("rethinkgen.run.build.importlib.import_module", {"name": "canary_package"}),
        ("rethinkgen.run.own_code.import_opened", {"module": "canary_package"}),
        ("rethinkgen.run.training.subprocess.run", {"args": touch, "shell": True}),
        ("rethinkgen.data.source.os.mkdir", {"path": canary}),
        ("rethinkgen.data.source.subprocess.run", {"args": touch, "shell": True}),
        ("rethinkgen.data.source._write_cache", {"cache": canary, "images": None}),
        ("rethinkgen.data.source.Source", {}),
        ("rethinkgen.data.source.Images", {}),
        ("rethinkgen.data.corruption._CorruptedPixels", {}),
        ("rethinkgen.data.corruption.CorruptedImages", {}),
        ("rethinkgen.model.mlp.nn.Module", {}),
        ("rethinkgen.model.mlp.nn.Sequential", {"_args_": [{"_target_": "os.system", "command": touch}]}),
        ("rethinkgen.model.classifier.Classifier", {}),
        ("rethinkgen.model.schedule.check_positive", {"key": "a", "value": 1}),
        ("canary_package.network", {}),
        ("canary_package.MLP", {}),
        ("canary_package", {}),
        ("..os.system", {"command": touch}),
        ("os.system ", {"command": touch}),
        ("system", {"command": touch}),
        ("", {}),
    ]  # fmt: skip
    return [{"_target_": target, **arguments} for target, arguments in nodes]


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the import system by name; and the canary's package lies where it would be found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delenv(own_code.VARIABLE, raising=False)
    names: list[str] = []
    import_module = importlib.import_module

    def note(name: str, package: str | None = None) -> Any:
        # Libraries import much themselves, once they are imported.
        if str(sys._getframe(1).f_globals["__name__"]).startswith("rethinkgen."):
            names.append(name)
        return import_module(name, package)

    monkeypatch.setattr(importlib, "import_module", note)
    return names


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("is_partial", [False, True])
def test_attacks_are_refused_unimported_and_uncalled(
    tmp_path: Path, imported: list[str], key: str, is_partial: bool
) -> None:
    for node in attacks(tmp_path):
        # Where the partial itself is refused, nothing would be said about the target.
        partial = {"_partial_": True} if is_partial and PLACES[key].is_partial in (True, None) else {}
        with pytest.raises(ValueError, match=key):
            build(OmegaConf.create(node | partial), key)
        assert not (tmp_path / "canary").exists(), node
        assert "canary_package" not in sys.modules, node
    foreign = {name for name in imported if not name.startswith("rethinkgen.")}
    assert foreign <= NEEDED


@pytest.mark.parametrize("key", PLACES)
def test_attacks_inside_of_what_is_allowed_are_refused(tmp_path: Path, imported: list[str], key: str) -> None:
    allowed = allowed_target(key)
    for node in attacks(tmp_path):
        for inside in (node, [node], {"deep": [{"er": node}]}):
            with pytest.raises(ValueError, match=key):
                build(DictConfig({"_target_": allowed, "argument": inside}), key)
    assert not (tmp_path / "canary").exists()


def allowed_target(key: str) -> str:
    others = {
        "optimizer": "torch.optim.SGD",
        "logger": "rethinkgen.run.wandb_mirror.WandbMirror",
        "trainer": "pytorch_lightning.Trainer",
        "hydra.sweeper.sampler": "optuna.samplers.TPESampler",
    }
    return others.get(key) or names_of_ours(key)[0]


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize(
    "trick",
    [
        {"_args_": [1]},
        {"_recursive_": False},
        {"_convert_": "object"},
        {"_isolate_": True},
        {"_execution_whitelist_": ["*"]},
        {"_partial_": "yes"},
        {"_partial_": "${oc.env:PATH}"},
    ],
)
def test_hydras_other_keys_are_refused(key: str, trick: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{key}\.{next(iter(trick))}"):
        build(DictConfig({"_target_": allowed_target(key), **trick}), key)


@pytest.mark.parametrize(
    ("key", "is_partial"), [("model", True), ("data.source", True), ("optimizer", False), ("schedule", False)]
)
def test_what_is_to_be_called_later_is_so_by_its_place(key: str, is_partial: bool) -> None:
    with pytest.raises(ValueError, match=rf"{key}\._partial_={is_partial}: here it is {str(not is_partial).lower()}"):
        build(DictConfig({"_target_": allowed_target(key), "_partial_": is_partial}), key)
    assert isinstance(build({"_target_": "torch.optim.SGD", "lr": 1}, "optimizer"), functools.partial)


def targets_in_conf() -> list[tuple[str, str]]:
    """Return each place and target that a file of ``conf/`` names, but for Hydra's own."""
    found = []
    for file in sorted(CONF.rglob("*.yaml")):
        group = file.parent.relative_to(CONF).as_posix()
        node = OmegaConf.to_container(OmegaConf.load(file))
        pending = [("" if group == "." else group, node)]
        while pending:
            key, node = pending.pop()
            if isinstance(node, dict):
                if "_target_" in node and not key.startswith("hydra"):
                    place = next(
                        (each for each in ("logger", "regularizer", "measure") if key.startswith(f"{each}.")), key
                    )
                    found.append((place, node["_target_"]))
                pending += [(f"{key}.{name}".removeprefix("."), child) for name, child in node.items()]
    return found


def test_every_target_in_conf_is_accepted_at_its_place_and_no_other() -> None:
    found = targets_in_conf()
    assert len(found) >= 38
    assert {key for key, _ in found} == {*PLACES} - {"hydra.sweeper.sampler"}
    for key, target in found:
        for place in PLACES:
            if place == key:
                # It is found: what is refused is an argument that nothing has.
                with pytest.raises(ValueError, match=f"of {target}: not set here"):
                    build({"_target_": target, "surely_no_argument": 1}, place, surely_no_argument=2)
            else:
                with pytest.raises(ValueError, match=rf"{place}\._target_={target}: .* is wanted here"):
                    build({"_target_": target}, place)


@pytest.mark.parametrize("key", PLACES)
def test_a_name_says_which_of_ours_is_meant(key: str) -> None:
    names = Counter(full.rpartition(".")[2] for full in names_of_ours(key))
    assert not [name for name, number in names.items() if number > 1]


@pytest.mark.parametrize(
    ("key", "target", "name"),
    [
        ("model", "rethinkgen.networks.perceptron.MLP", "MLP"),
        ("model", "rethinkgen.data.source.AlexNet", "AlexNet"),
        ("model", "rethinkgen.model.mlp.Inception", "Inception"),
        ("data.source", "rethinkgen.data.streamed_source.CIFAR10", "CIFAR10"),
        ("data.source", "rethinkgen.data.Digits", "Digits"),
        ("data.corruption", "rethinkgen.data.label_noise.RandomLabels", "RandomLabels"),
        ("logger", "rethinkgen.logging.WandbMirror", "WandbMirror"),
    ],
)
def test_ours_are_found_by_name_wherever_a_config_says_they_are(key: str, target: str, name: str) -> None:
    needed = {
        "data.corruption": {"source": None},
        "data.source": {"root": "data"} if name == "CIFAR10" else {},
        "logger": {"project": "p"},
        "model": {"depth": 1, "width": 8} if name == "MLP" else {},
    }
    made = build({"_target_": target, "protocol": 1, **needed[key]}, key)
    assert type(made).__name__ == name


def test_a_schedule_is_found_by_name() -> None:
    schedule = build({"_target_": "rethinkgen.schedules.step", "factor": 0.1, "at": [0.5]}, "schedule")
    assert [schedule(step, 10) for step in (0, 4, 5, 9)] == [1, 1, 0.1, 0.1]
    assert type(schedule) is functools.partial, "Hydra's own costs 20 us a call"


def test_what_is_refused_is_told_with_what_is_like_it() -> None:
    with pytest.raises(ValueError, match="AlexNet") as refusal:
        build({"_target_": "rethinkgen.model.alexnet.AlexNett"}, "model")
    message = str(refusal.value)
    assert message.startswith("model._target_=rethinkgen.model.alexnet.AlexNett: a network (a subclass of")
    assert "rethinkgen.model.alexnet.AlexNet." in message
    assert "Inception" not in message
    assert message.endswith("needs its package opened by the command: code=my_package")
    with pytest.raises(ValueError, match=r"torch\.optim\.\*"):
        build({"_target_": "my_package.Lion"}, "optimizer")
    with pytest.raises(ValueError, match=r"data\.source\._target_=None: a source of images"):
        build({}, "data.source")
    with pytest.raises(ValueError, match=r"model\._target_=None: a network"):
        build(3, "model")


def test_what_is_wrong_with_the_arguments_is_told() -> None:
    with pytest.raises(ValueError, match=r"^data\.source: StreamedFolder.* missing 1 required .*'root'\.$"):
        build({"_target_": "rethinkgen.data.streamed_source.StreamedFolder"}, "data.source")
    with pytest.raises(ValueError, match=r"^model\.colour='red': .*MLP has no such option\. It has .*depth.*width\.$"):
        build({"_target_": "rethinkgen.model.mlp.MLP", "colour": "red"}, "model")
    with pytest.raises(ValueError, match=r"^model\.dept=3: .*MLP has no such option\. Did you mean model\.depth=3\?$"):
        build({"_target_": "rethinkgen.model.mlp.MLP", "dept": 3}, "model")
    with pytest.raises(ValueError, match=r"^optimizer\.nestrov=True: .* Did you mean optimizer\.nesterov=True\?$"):
        build({"_target_": "torch.optim.SGD", "nestrov": True}, "optimizer")
    none = {"_target_": "rethinkgen.data.corruption.TrueLabels"}
    with pytest.raises(ValueError, match=r"^data\.flop=True: .* Did you mean data\.flip=True\?$"):
        build(none, "data.corruption", source=None, flop=True, flip=False)


def test_samplers_take_samplers_and_what_crosses_them() -> None:
    import optuna

    node = {
        "_target_": "hydra_plugins.hydra_optuna_sweeper._impl.create_nsgaii_sampler",
        "crossover": {"_target_": "optuna.samplers.nsgaii.UniformCrossover"},
        "seed": 0,
    }
    assert isinstance(build(node, "hydra.sweeper.sampler"), optuna.samplers.NSGAIISampler)
    grid = build({"_target_": "optuna.samplers.GridSampler", "_partial_": True, "seed": 0}, "hydra.sweeper.sampler")
    assert isinstance(grid({"a": [1, 2]}), optuna.samplers.GridSampler)
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.sampler\._target_=optuna.*UniformCrossover"):
        build(node["crossover"], "hydra.sweeper.sampler")
    with pytest.raises(ValueError, match=r"hydra\.sweeper\.sampler\.crossover\._target_=torch\.save"):
        build(node | {"crossover": {"_target_": "torch.save"}}, "hydra.sweeper.sampler")
