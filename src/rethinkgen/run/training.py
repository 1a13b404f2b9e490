"""One run from its resolved config: build the objects, train from the last checkpoint on, write the result.

This module is imported only when something must really be trained: it brings in torch and Lightning.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import math
import os
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers.logger import Logger
from rich.console import Console

from rethinkgen.blame import blamed
from rethinkgen.console import note, say
from rethinkgen.data.module import CorruptedImages
from rethinkgen.data.source import Source
from rethinkgen.data.streaming import telling_of_workers
from rethinkgen.data.timetable import Timetable
from rethinkgen.files import atomic_writer, remove_leftovers
from rethinkgen.machine import keep_freed_memory
from rethinkgen.run import trial
from rethinkgen.run.build import PLACES, build, target_class
from rethinkgen.run.check import key_of
from rethinkgen.run.declaration import check_regularizers_act, with_fixed
from rethinkgen.run.delayed_logger import DelayedLogger
from rethinkgen.run.examples_table import write_examples
from rethinkgen.run.folder import RunFolder, now
from rethinkgen.run.identity import Declaration, declaration, flatten, takes_steps
from rethinkgen.run.kept import check_steps
from rethinkgen.run.metrics_table import MetricsTable
from rethinkgen.run.probe import (
    check_accelerator,
    check_optimizer,
    check_parts_of_a_step,
    check_schedule,
    spelled,
    telling_lack_of_memory,
)
from rethinkgen.run.progress import LiveProgress, plan
from rethinkgen.run.ranks import GiveUp, Ranks
from rethinkgen.run.selection import excluded, names_read, selected, words_on, write_excluded
from rethinkgen.run.wandb_mirror import WandbMirror
from rethinkgen.train.checkpoint import (
    AtomicCheckpointIO,
    ExactCheckpoint,
    Resumable,
    find_checkpoint,
)
from rethinkgen.train.classifier import Classifier, num_call_arguments
from rethinkgen.train.distributed import DataParallel, StartedRanks, process_group, sync_batch_norm
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.train.kept import KeepsStates

log = logging.getLogger(__name__)

DEFAULT_THREADS = torch.get_num_threads()
PACKAGES = ("rethinkgen", "torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")


def _let_go(error: BaseException) -> None:
    """Say nothing."""


NEEDLESS_WARNINGS = (
    # Lightning 2.6 on torch 2.15: nothing a user could do about it.
    r".*isinstance\(treespec, LeafSpec\).*",
    # What Evaluation logs is of all ranks already.
    r".*recommended to use `self.log\(.*sync_dist=True.*",
    # On a cluster's login node one may well train without SLURM.
    r".*The `srun` command is available.*",
)


class Training:
    """The built objects of one run, and the steps from them to a result.

    With several ``ranks`` each has such an object; only rank 0's writes and logs anything.
    """

    def __init__(
        self,
        config: DictConfig,
        folder: RunFolder,
        identity: dict[str, Any],
        console: Console,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.folder = folder
        self.identity = identity
        self.console = console
        self.declared = declaration(identity["config"])
        check_regularizers_act(self.declared, identity)
        self._tell_inert_keys(identity)
        config = with_fixed(config, self.declared)
        share = max(1, default_threads() // (1 if self.ranks.has_own_cores else self.ranks.local_size))
        torch.set_num_threads(share if config.threads is None else config.threads)
        keep_freed_memory()
        # Deterministic cuBLAS needs its workspace fixed before CUDA starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Nothing reads memory before it is written; filling it first costs convolutions 3 to 6 %.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        check_accelerator(config.trainer)
        pl.seed_everything(config.seed, verbose=False)
        exclude = config.data.get("exclude")
        self.excluded = (
            excluded(exclude, folder, identity.get("contents") or {}) if isinstance(exclude, Mapping) else None
        )
        self.excluded_by = None if self.excluded is None else names_read(exclude, folder)
        """The runs that said so."""
        self.datamodule = build_datamodule(
            config.data, exclude=None if self.excluded is None else self.excluded.tolist()
        )
        if config.debug:
            self.datamodule.at_most = trial.num_examples(config.data.batch_size)
        self.model = build_model(config, self.declared)
        self.evaluation = Evaluation(
            every=config.evaluate_every,
            fit_threshold=config.fit_threshold,
            until_fit=config.until_fit,
            log_every=config.log_every,
            patience=config.regularizer.early_stopping,
        )
        self.checkpoint = ExactCheckpoint(
            folder.checkpoints,
            every_seconds=config.checkpoint_seconds,
            seed=config.seed,
            is_leading=self.ranks.is_leading,
            run_id=identity["run_id"],
        )
        self.keep = list(config.get("keep") or ()) if takes_steps(identity["config"]) else []
        self.is_trial = config.debug
        self.kept = KeepsStates(folder.weights, self.keep, run_id=identity["run_id"], evaluation=self.evaluation)
        self.progress = LiveProgress(folder, self.evaluation, console)
        self.table = MetricsTable(folder.metrics)
        self.loggers: list[Logger] = (
            [build_logger(node, folder.path) for node in config.logger.values()] if self.ranks.is_leading else []
        )
        self.mirrors = [logger for logger in self.loggers if isinstance(logger, WandbMirror)]
        self.budget = {"max_steps": config.max_steps, "max_epochs": config.max_epochs}
        self.trainer_config = config.trainer
        self.schedule_config = config.schedule

    def _tell_inert_keys(self, identity: dict[str, Any]) -> None:
        given = [override for override in identity["overrides"] if self.declared.fixes(key_of(override))]
        if given:
            say(
                f"No effect on {identity['choices']['model']}, which is {self.declared.how}: {' '.join(given)}",
                to=self.console,
            )

    def prepare(self) -> None:
        """Load and corrupt the data and build the network: whatever is wrong with the config shows here."""
        with (
            telling_of_workers(),
            blamed(self.datamodule.source, "data.source", PLACES["data.source"].asks),
            blamed(self.datamodule, "data.corruption", PLACES["data.corruption"].asks),
        ):
            with self.ranks.fetching_data():
                self.datamodule.prepare_data()
            self.datamodule.setup()
        self.datamodule.check_regularizers_act()
        for line in self.datamodule.notes:
            say(line, to=self.console)
        if self.excluded_by:
            say(words_on(self.identity["config"]["data"]["exclude"], self.excluded_by), to=self.console)
        timetable = self.datamodule.timetable
        total_steps = total_budget(self.budget, timetable)
        timetable.check(total_steps, self.ranks.size)
        check_steps([] if self.is_trial else self.keep, timetable, total_steps)
        self.trainer = self._make_trainer(total_steps)
        self.trainer.datamodule = self.datamodule  # type: ignore[attr-defined]
        self.model.trainer = self.trainer
        with blamed(self.model, "model", PLACES["model"].asks), telling_lack_of_memory():
            self.model.configure_model()
        self.datamodule.check_shares(self.ranks.size)
        check_dropout_acts(self.model, self.identity)
        check_parts_of_a_step(self.model)
        check_schedule(self.model, total_steps, self.schedule_config)
        optimizer = self.model.configure_optimizers()
        self.model.check_parts(self.datamodule, optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer)
        self.evaluation.setup(self.trainer, self.model, "fit")

    @property
    def shapes(self) -> dict[str, Any]:
        """What the network is built for, so that it can be built again without the data. Known once it is prepared."""
        return {
            "image_shape": list(self.datamodule.image_shape),
            "num_classes": self.datamodule.num_classes,
            "num_outputs": self.datamodule.num_outputs,
        }

    @property
    def plan(self) -> str | None:
        """How long it trains, in a sentence; nothing of what takes no steps. Known once it is prepared."""
        if self.declared.fixes("max_steps"):
            return None
        timetable, total_steps = self.datamodule.timetable, self.trainer.max_steps
        given = {key_of(override) for override in self.identity["overrides"]}
        is_asked_for = bool(given & {"max_steps", "max_epochs", "until_fit"})
        return plan(self.evaluation, total_steps, timetable.epochs(total_steps), is_asked_for=is_asked_for)

    @property
    def is_on_cpu(self) -> bool:
        """Whether it is trained on the CPU; known once it is prepared."""
        return self.trainer.strategy.root_device.type == "cpu"

    def _make_trainer(self, total_steps: int) -> pl.Trainer:
        # Tips, devices found, why training stopped: our own lines say what matters.
        for name in ("pytorch_lightning", "lightning_fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        trainer_config = self.trainer_config.copy()
        OmegaConf.set_struct(trainer_config, False)
        if trainer_config.accelerator == "auto":
            # Lightning's own would choose Apple's GPUs too, on which nothing is reproducible to the bit.
            trainer_config.accelerator = "gpu" if torch.cuda.is_available() else "cpu"
        plugins: list[Any] = [AtomicCheckpointIO(), StartedRanks(self.ranks)]
        is_synchronised = trainer_config.pop("sync_batchnorm", True)
        strategy = trainer_config.pop("strategy", "auto")
        if self.ranks.size > 1:
            strategy = DataParallel()
            if is_synchronised:
                plugins.append(sync_batch_norm(trainer_config.accelerator))
        elif strategy == "ddp":
            strategy = "auto"
        try:
            trainer: pl.Trainer = build(
                trainer_config,
                "trainer",
                max_steps=total_steps,
                max_epochs=-1,
                callbacks=[self.progress, self.evaluation, self.kept, self.checkpoint],
                logger=[self.table, *self.loggers] if self.ranks.is_leading else False,
                strategy=strategy,
                plugins=plugins,
                default_root_dir=str(self.folder.path),
                enable_checkpointing=True,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                # Rows come from Evaluation; Lightning's own clock never strikes.
                log_every_n_steps=10**9,
            )
        except (MisconfigurationException, TypeError, ValueError) as error:
            raise ValueError(f"{spelled('trainer', self.trainer_config)}: {error}") from error
        check_trainer(trainer, self.ranks)
        return trainer

    def run(self, give_up: GiveUp = _let_go) -> dict[str, Any]:
        """Train to the end, from the last whole checkpoint if there is one; return the result, on rank 0.

        ``give_up`` is called from another thread where this one hangs, since another rank does not answer.
        """
        with self.checkpoint.obeying_signals(), self.ranks.together(give_up), process_group(self.trainer):
            # Rank 0 finds it for all, as it puts damaged ones aside.
            found = None
            if self.ranks.is_leading and self.model.is_resumable:
                found = find_checkpoint(self.folder.checkpoints, self.identity["run_id"], self.model.state_dict())
            if self.ranks.is_leading:
                self._take_up(found)
            path = self.trainer.strategy.broadcast(found.path if found else None)
            with warnings.catch_warnings():
                for message in NEEDLESS_WARNINGS:
                    warnings.filterwarnings("ignore", message=message)
                with telling_of_workers():
                    self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True)
        return self._result() if self.ranks.is_leading else {}

    def _take_up(self, found: Resumable | None) -> None:
        """Bring the run's own files to the state of the checkpoint, and open the mirrors."""
        if self.excluded is not None:
            write_excluded(self.folder, self.excluded)
        self.table.cut_back(-1 if found is None else found.step)
        self.folder.note_ranks(self.ranks.size, is_anew=found is None)
        if found is not None:
            whose = "" if found.names_its_run else ", of before checkpoints said whose they are"
            line = f"Going on from step {found.step:,} ({found.path.name}{whose})."
            say(line, to=self.console)
            note(line)
        for logger in self.loggers:
            if isinstance(logger, WandbMirror):
                logger.start(self.folder.path, self.identity)
            else:
                logger.log_hyperparams(flatten(self.identity["config"]))
        self.checkpoint.begin(0.0 if found is None else found.seconds)

    def _result(self) -> dict[str, Any]:
        metrics = self.evaluation.summary(self.trainer, self.model)
        metrics |= self.datamodule.noise
        metrics["num_parameters"] = self.model.num_parameters
        metrics["epochs"] = self.datamodule.timetable.epochs(metrics["steps"])
        # JSON knows no infinity: a number that is none is null, as everything else that was not reached.
        metrics = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in metrics.items()
        }
        result = {
            **self.identity,
            "metrics": metrics,
            "fitted": self.evaluation.fitted,
            "reason": self.declared.how if self.declared.fixes("max_steps") else self.evaluation.reason(self.trainer),
            **self.shapes,
            "num_train": len(self.datamodule.splits["train"]),
            "num_test": len(self.datamodule.splits.get("test", ())),
            "steps_per_epoch": self.datamodule.timetable.steps(0),
            "fit_ceiling": self.datamodule.fit_ceiling,
            "seconds": round(self.checkpoint.seconds, 3),
            "images_per_second": round(self.progress.throughput.mean),
            "finished": now(),
            "device": device_name(self.trainer),
            "world_size": self.ranks.size,
            "world_sizes": self.folder.read_identity().get("world_sizes") or [self.ranks.size],
            "threads": torch.get_num_threads(),
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "commit": commit(),
        }
        self._write_examples()
        # Of the network that the metrics are about: with early stopping not the one that training ended with.
        self.folder.weights.mkdir(exist_ok=True)
        with atomic_writer(self.folder.weights / "end.pt") as file:
            torch.save(self.model.state_dict(), file)
        for mirror in self.mirrors:
            mirror.show_result(result)
        # Of kills along the way.
        for folder in (self.folder.path, self.folder.weights):
            remove_leftovers(folder)
        self.folder.write_result(result)
        self.folder.remove_remains()
        return result

    def _write_examples(self) -> None:
        train = self.datamodule.splits["train"]
        columns = {
            name: getattr(train, name) for name in ("index", "labels", "original_labels", "is_drawn", "is_corrupted")
        }
        arrays = {name: tensor.cpu().numpy() for name, tensor in (columns | self.evaluation.examples()).items()}
        with atomic_writer(self.folder.examples) as file:
            np.savez_compressed(file, **arrays)
        write_examples(self.folder.examples_by_name, self.datamodule, arrays)

    def finish(self, exit_code: int) -> None:
        """Close what outlives the run otherwise."""
        for mirror in self.mirrors:
            mirror.finish(exit_code)


def default_threads() -> int:
    """Return how many threads torch takes by itself, or was to take: a forked process imported it long before."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else DEFAULT_THREADS


def build_logger(config: DictConfig, folder: Path) -> Logger:
    """Build one of Lightning's loggers, whose files lie in the run's folder unless its config says where.

    All but our own are in step with the checkpoints.
    """
    place = {} if "save_dir" in config else {"save_dir": str(folder)}
    takes_place = "save_dir" in inspect.signature(target_class(config, "logger")).parameters
    logger: Logger = build(config, "logger", **(place if takes_place else {}))
    return logger if isinstance(logger, WandbMirror) else DelayedLogger(logger)


def build_datamodule(
    config: Mapping[Any, Any], source: Source | None = None, exclude: Sequence[int] | None = None
) -> CorruptedImages:
    """Build the corrupted images of the ``data`` node.

    Args:
        config: the node.
        source: what they are built around in place of the source that it names.
        exclude: positions of the examples that its selection of runs leaves out, where they are known.
    """
    arguments = {
        str(key): value for key, value in config.items() if key not in ("name", "root", "source", "corruption")
    }
    if isinstance(node := arguments.get("exclude"), Mapping):
        arguments["exclude"] = selected(node).tolist() if exclude is None else exclude
    source = source or build(config["source"], "data.source")
    datamodule: CorruptedImages = build(config["corruption"], "data.corruption", source=source, **arguments)
    return datamodule


def build_model(config: DictConfig, declared: Declaration) -> Classifier:
    """Build what is trained, of which the network itself waits for the data.

    Raises:
        ValueError: a part refuses its values, or the model does not keep what it declares.
    """
    parts = {
        name: build(config[name], name) for name in ("loss", "optimizer", "schedule") if config.get(name) is not None
    }
    parts |= parts_of_a_step(config.regularizer)
    model: Classifier = build(config.model, "model", **parts, gradient_clip=config.get("gradient_clip"))
    if model.own_steps not in (None, fixed := declared.fixed.get("max_steps")):
        raise ValueError(
            f"model.declares: {type(model).__name__} takes {model.own_steps} step(s) whatever the budget, and its "
            f"file declares max_steps: {fixed}. That of a ClosedForm needs declares: closed_form."
        )
    if "optimizer" in parts:
        check_optimizer(parts["optimizer"], config.optimizer)
    return model


def parts_of_a_step(regularizers: DictConfig) -> dict[str, Any]:
    """Build the regularizers that are objects: penalties, and one mix at most.

    Raises:
        ValueError: there are two mixes.
    """
    parts: dict[str, Any] = {}
    for name, node in regularizers.items():
        if not OmegaConf.is_dict(node):
            continue
        made = build(node, "regularizer")
        if num_call_arguments(type(made)) == 3:
            parts.setdefault("penalties", []).append(made)
        elif "mix" in parts:
            raise ValueError(f"regularizer.{name!s}: of those that change the batch only one can act. Leave one out.")
        else:
            parts["mix"] = made
    return parts


def check_dropout_acts(model: Classifier, identity: dict[str, Any]) -> None:
    """Refuse dropout where the network that was built has no place for it.

    Raises:
        ValueError: the run would be called by it, and be the one without.
    """
    if "dropout" in identity["choices"]["regularizer"] and not model.has_dropout:
        others = [name for name in identity["choices"]["regularizer"] if name != "dropout"]
        raise ValueError(
            f"regularizer=[dropout]: {identity['choices']['model']} has no dropout layer, so that it does not act: set "
            f"regularizer=[{','.join(others)}], or put one in place with *self.dropout_layers() in "
            f"{type(model).__name__}.build."
        )


def check_trainer(trainer: pl.Trainer, ranks: Ranks) -> None:
    """Refuse what Lightning can do and ``Classifier`` cannot.

    Raises:
        ValueError: a precision whose gradients must be scaled, or devices that nobody started a process for.
    """
    if (num_devices := trainer.num_devices * trainer.num_nodes) != ranks.size:
        raise ValueError(
            f"trainer.devices: Lightning takes {num_devices} devices, for which {ranks.size} processes were started. "
            "Give their number, such as trainer.devices=2."
        )
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise ValueError(f"trainer.precision={trainer.precision}: 32-true, bf16-mixed or 64-true is needed.")


def total_budget(budget: dict[str, Any], timetable: Timetable) -> int:
    """Return the budget in optimizer steps; epochs, where given, are the budget."""
    if budget["max_epochs"] is None:
        return int(budget["max_steps"])
    return max(1, timetable.step_at(budget["max_epochs"]))


def device_name(trainer: pl.Trainer) -> str:
    """Return what the run trained on, by name."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        "CPU",
    )
    return f"{device.type}: {model}"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def commit() -> str | None:
    """Return the commit of our own code, marked ``+changes`` where files differ from it; none outside a checkout."""
    here = Path(__file__).parent  # perhaps inside an environment inside somebody else's repository

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
