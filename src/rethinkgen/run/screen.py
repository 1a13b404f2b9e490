"""What a run says on the terminal when it ends: a small table, a sentence, and the next command to try."""

from __future__ import annotations

import re
import traceback
from typing import Any

from rich.markup import escape

from rethinkgen.console import (
    Column,
    note,
    percent,
    say,
    say_command,
    say_error,
    say_table,
    shown,
    stderr,
    steps_to_fit,
)
from rethinkgen.measure.thresholds import NEARLY_FITTED, STEPS_TO_NEARLY_FIT
from rethinkgen.run import trial
from rethinkgen.run.command import command_here, other_command
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.identity import takes_steps
from rethinkgen.run.run import has_published_budget
from rethinkgen.words import how_many


def tell_result(folder: RunFolder, result: dict[str, Any]) -> None:
    """Show a finished run."""
    _tell_numbers(result)
    say(sentence(result))
    note(sentence(result))
    if (command := next_command(result, folder)) is not None:
        say_command(*command)


def tell_trial(result: dict[str, Any]) -> None:
    """Say that a trial run went well: its numbers are worth nothing."""
    metrics = result["metrics"]
    what = how_many(metrics["steps"], "step") if takes_steps(result["config"]) else result["reason"]
    say(
        f"Trial run: {what}, {result['num_train']:,} training and {how_many(result['num_test'], 'test example')}, "
        f"{how_many(metrics['num_parameters'], 'parameter')}. Training, evaluation, checkpoint and result went well; "
        "nothing is kept. The same command without debug=true is the run."
    )


def tell_skipped(folder: RunFolder, result: dict[str, Any]) -> None:
    """Show a run that was already finished, with the date and commit of its numbers."""
    commit = (result.get("commit") or "unknown")[:10]
    name = f"[bold]{escape(folder.path.name)}[/bold]"
    say(
        f"{name} was finished on {escape(str(result.get('finished', 'an unknown day')))} at commit {commit}.",
        markup=True,
    )
    _tell_numbers(result)
    say(sentence(result))
    say("rerun=true trains it again and keeps this result beside the new one.", style="dim")


def _tell_numbers(result: dict[str, Any]) -> None:
    metrics = result["metrics"]
    columns = {
        "fit": percent(metrics.get("fit/accuracy")),
        "validation": percent(metrics.get("validation/accuracy")),
        "test": percent(metrics.get("test/accuracy")),
        "memorised": percent(metrics.get("fit/accuracy_corrupted")),
        "corrected": percent(metrics.get("fit/accuracy_corrected")),
        "steps to fit": steps_to_fit(result),
        "parameters": f"{number:,}" if (number := metrics.get("num_parameters")) else "-",
        "images/s": f"{speed:,}" if (speed := result.get("images_per_second")) else "-",
        "time": f"{result.get('seconds') or 0:,.0f} s",
    }
    shown = {name: value for name, value in columns.items() if value != "-"}
    say_table([Column(name) for name in shown], [list(shown.values())])


def sentence(result: dict[str, Any]) -> str:
    """Return one sentence on what was seen."""
    metrics, corruption = result["metrics"], result["choices"]["data.corruption"]
    chance = 1 / result["num_classes"]
    test = "" if metrics["test/accuracy"] is None else f", test {percent(metrics['test/accuracy'])}"
    seen = f"{corruption}: fit {percent(metrics['fit/accuracy'])}{test}"
    seen += f" (chance {percent(chance)})"
    if not takes_steps(result.get("config", {})):
        return f"{seen}: {'fitted' if result['fitted'] else 'not fitted'}, {result.get('reason', '')}."
    if not result["fitted"]:
        nearly = metrics.get(STEPS_TO_NEARLY_FIT)
        most = (
            f"{percent(NEARLY_FITTED)} fitted in {how_many(nearly, 'step')}, but not all"
            if nearly is not None
            else "not fitted"
        )
        return f"{seen}: {most}; {result.get('reason', '')}."
    memorised = dict.fromkeys(("random_labels", "random_signs"), "memorised")
    partly = dict.fromkeys(("partial_labels", "symmetric_labels"), "wrong labels memorised too")
    how = (memorised | partly).get(corruption, "fitted")
    return f"{seen}: {how} in {how_many(metrics['steps_to_fit'], 'step')}."


def next_command(result: dict[str, Any], folder: RunFolder) -> tuple[str, str] | None:
    """Return what to do next and the command for it, or the file to look into."""
    if not result["fitted"]:
        return _with_more_steps(result)
    corruption, is_own = result["choices"]["data.corruption"], not has_published_budget(result["config"])
    if corruption == "none" and is_own and folder.examples_by_name.exists():
        return (
            "The images learnt last, or never, are the first to look at for wrong labels (first_step_fitted):",
            shown(folder.examples_by_name),
        )
    if corruption == "none" and not is_own:
        return "The same network on labels drawn at random:", _with_corruption(result, "random_labels")
    drawn_at_random = corruption in ("random_labels", "random_signs")
    if corruption == "none" or drawn_at_random or any(folder.path.parent.glob("*-none-*/result.json")):
        report = other_command("report", [shown(folder.path.parent)])
        return None if report is None else ("Tables and figures of this run and all beside it:", report)
    return "The same network on true labels and true pixels:", _with_corruption(result, "none")


def _with_corruption(result: dict[str, Any], corruption: str) -> str:
    # With the values of the present corruption, which the next need not have.
    others = [item for item in result["overrides"] if not re.match(r"[+~]*data\.corruption\b", item)]
    return command_here([*others, f"data.corruption={corruption}"])


def _with_more_steps(result: dict[str, Any]) -> tuple[str, str] | None:
    overrides = list(result["overrides"])
    has_own_budget = any(item.startswith(("max_steps", "max_epochs", "schedule")) for item in overrides)
    stops_early = "early_stopping" in result["choices"]["regularizer"]
    if has_own_budget or stops_early or result["choices"]["schedule"] != "exponential":
        return None
    if (epochs := (result.get("config") or {}).get("max_epochs")) is not None:
        return "Twice the epochs:", command_here([*overrides, f"max_epochs={2 * epochs:g}"])
    steps, factor = 2 * result["metrics"]["steps"], "schedule.factor=0.98"
    same = command_here([*overrides, f"max_steps={steps}", factor])
    return "Twice the steps, and a rate that falls more slowly:", same


def tell_failure(folder: RunFolder, state: str, reason: str, error: BaseException | None) -> None:
    """Say what ended the run, with the traceback of ``error`` where one is given, and how to go on."""
    has_checkpoint = any(folder.checkpoints.glob("*.ckpt"))
    is_finished = folder.has_begun and folder.result.exists()
    if error is not None:
        say("".join(traceback.format_exception(error)), to=stderr())
    if state == "interrupted":
        where = "goes on from the last checkpoint" if has_checkpoint else "starts it again"
        where = "makes what is missing: the run is finished" if is_finished else where
        say(f"Stopped by {reason}. The same command {where}.", to=stderr())
        return
    say_error(reason)
    if is_finished:
        say(f"The run is finished, and stays so: {folder.path}", to=stderr())
    elif folder.has_begun and folder.path.is_dir() and not trial.is_on():
        kept = "The run's folder and its last good checkpoint stay" if has_checkpoint else "The run's folder stays"
        say(f"{kept}: {folder.path}", to=stderr())
