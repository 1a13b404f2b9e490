from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_run
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D

from conftest import TINY, Command
from rethinkgen.report.claim_files import load_claims
from rethinkgen.report.figures import Picture, picture, pictures
from rethinkgen.report.figures.declaration import packaged
from rethinkgen.report.figures.settings import lines, settings
from rethinkgen.report.style import PALETTE, known_looks, looks_of
from rethinkgen.run.run import Run, read_runs

LEVELS = (0.0, 0.2, 0.4, 0.6, 1.0)
NETWORKS = ("inception", "alexnet", "mlp_1x512")
FIVE_KINDS = ("none", "random_labels", "shuffled_pixels", "random_pixels", "gaussian")
FEW_STEPS = range(1000, 25_001, 3000)


def named(runs: Sequence[Run]) -> dict[str, Picture]:
    return {made.name: made for made in pictures(runs)}


FIGURES = {figure.name: figure for figure in packaged()}


def drawn(name: str, runs: Sequence[Run]) -> Picture:
    found = picture(FIGURES[name], runs)
    assert found is not None
    return found


def label_noise(folder: Path, *, num_seeds: int = 2, models: Sequence[str] = NETWORKS, **more: Any) -> list[Run]:
    return [
        made_up_run(folder, corruption="partial_labels", level=level, model=model, seed=seed, steps=FEW_STEPS, **more)
        for model in models
        for level in LEVELS
        for seed in range(num_seeds)
    ]


def with_metrics(run: Run, **metrics: Any) -> Run:
    assert run.result is not None
    return replace(run, result=run.result | {"metrics": run.metrics | metrics})


def points(axes: Axes, marker: str) -> list[tuple[float, float]]:
    """Return where markers of one shape stand."""
    found = [line for line in axes.lines if line.get_marker() == marker]
    return [(x, y) for line in found for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]  # type: ignore[arg-type]


def drawn_lines(axes: Axes) -> list[Line2D]:
    """Return the lines of which there is something to see; the others are a legend's."""
    return [line for line in axes.lines if len(line.get_xdata())]  # type: ignore[arg-type]


def arrows(axes: Axes) -> list[tuple[float, float]]:
    found = [line for line in axes.lines if not isinstance(line.get_marker(), str)]
    return [(x, y) for line in found for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]  # type: ignore[arg-type]


def bands(axes: Axes) -> list[PolyCollection]:
    return [collection for collection in axes.collections if isinstance(collection, PolyCollection)]


def test_only_pictures_that_the_runs_bear_on_are_drawn_the_papers_first(tmp_path: Path) -> None:
    assert pictures([]) == []
    assert pictures([made_up_run(tmp_path, steps=())]) == []
    assert list(named([made_up_run(tmp_path)])) == ["learning_curves"]
    general = ["fit_against_test", "steps_to_fit", "learning_curves"]
    assert list(named(label_noise(tmp_path))) == ["learnt_then_memorised", "figure_1b", "figure_1c", *general]
    kinds = [made_up_run(tmp_path, corruption=kind) for kind in FIVE_KINDS]
    assert list(named(kinds)) == ["figure_1a", *general]
    # The ends of the axis of label noise are no figure against its level.
    ends = [made_up_run(tmp_path, corruption=kind) for kind in FIVE_KINDS[:2]]
    assert list(named(ends)) == general


def test_figure_1a_has_a_curve_with_a_band_for_each_corruption(tmp_path: Path) -> None:
    runs = [made_up_run(tmp_path, corruption=kind, seed=seed) for kind in FIVE_KINDS for seed in range(3)]
    made = drawn("figure_1a", runs)
    (axes,) = made.figure.axes
    assert axes.get_xlim() == (0, 25_000)
    assert axes.get_ylim()[0] == 0
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training steps", "training loss (nats)")
    assert len(drawn_lines(axes)) == len(bands(axes)) == 5
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "5k", "10k", "15k", "20k", "25k"]
    assert list(made.data["line"].unique()) == list(FIVE_KINDS)
    assert "last 100 steps" in made.caption
    assert "n = 3 seeds" in made.caption
    assert "25,000 steps of 128" in made.caption
    at_end = made.data[(made.data["line"] == "random_labels") & (made.data["step"] == 5000)].iloc[0]
    losses = [run.curves.set_index("step")["train/loss"][5000] for run in runs if run.corruption == "random_labels"]
    assert at_end["mean"] == pytest.approx(np.mean(losses))
    assert at_end["std"] == pytest.approx(np.std(losses, ddof=1))


def test_one_seed_has_no_band_and_the_caption_says_so(tmp_path: Path) -> None:
    made = drawn("figure_1a", [made_up_run(tmp_path, corruption=kind) for kind in FIVE_KINDS])
    assert not bands(made.figure.axes[0])
    assert "n = 1" in made.caption
    assert made.data["std"].isna().all()


def test_figure_1a_has_a_panel_for_each_network(tmp_path: Path) -> None:
    runs = [made_up_run(tmp_path, corruption=kind, model=model) for kind in FIVE_KINDS for model in NETWORKS]
    made = drawn("figure_1a", runs)
    assert [axes.get_title() for axes in made.figure.axes] == list(NETWORKS)


def test_figure_1b_divides_by_the_steps_of_the_same_seed(tmp_path: Path) -> None:
    steps = {(0.0, 0): 100, (0.0, 1): 400, (0.4, 0): 300, (0.4, 1): 400, (1.0, 0): 500, (1.0, 1): 2400}
    runs = [
        made_up_run(tmp_path, corruption="partial_labels", level=level, seed=seed, steps_to_fit=reached)
        for (level, seed), reached in steps.items()
    ]
    table = drawn("figure_1b", runs).data.set_index("level")
    assert list(table["mean"]) == [1, 2, 5.5]
    assert table["std"][0.4] == pytest.approx(np.std([3, 1], ddof=1))
    assert list(table["n"]) == [2, 2, 2]
    assert not table["is_bound"].any()


def test_the_ends_of_label_noise_may_have_other_names(tmp_path: Path) -> None:
    runs = [
        made_up_run(tmp_path, corruption="none", steps_to_fit=100),
        made_up_run(tmp_path, corruption="partial_labels", level=0.0, steps_to_fit=100),
        made_up_run(tmp_path, corruption="partial_labels", level=0.5, steps_to_fit=250),
        made_up_run(tmp_path, corruption="random_labels", steps_to_fit=400),
    ]
    table = drawn("figure_1b", runs).data
    assert list(table["level"]) == [0, 0.5, 1]
    assert list(table["mean"]) == [1, 2.5, 4]
    assert list(table["n"]) == [1, 1, 1]


def test_what_was_not_fitted_is_an_arrow_at_its_lower_bound(tmp_path: Path) -> None:
    runs = label_noise(tmp_path, models=["inception"])
    unfitted = [with_metrics(run, steps_to_fit=None) if run.level == 1 and run.seed == 0 else run for run in runs]
    made = drawn("figure_1b", unfitted)
    (axes,) = made.figure.axes
    # Seed 0 took 5,000 steps on true labels and has a budget of 25,000; seed 1 was fitted: 15,100 over 5,100.
    bound = (25_000 / 5_000 + 15_100 / 5_100) / 2
    assert arrows(axes) == [(1.0, pytest.approx(bound))]
    assert axes.get_ylim()[1] > bound
    assert (1.0, pytest.approx(bound)) not in points(axes, known_looks()["inception"].marker)
    assert "lower bound" in made.caption
    assert list(made.data["is_bound"]) == [False] * 4 + [True]
    assert not arrows(drawn("figure_1b", runs).figure.axes[0])


def test_where_true_labels_are_never_fitted_wholly_99_percent_count(tmp_path: Path) -> None:
    runs = [with_metrics(run, steps_to_fit=None) for run in label_noise(tmp_path, models=["mlp_1x512"])]
    made = drawn("figure_1b", runs)
    assert "99 %" in made.figure.axes[0].get_ylabel()
    assert "99 % of the training set" in made.caption
    assert made.data["mean"].iloc[-1] == pytest.approx((13_500 / 4_500 + 13_600 / 4_600) / 2)


def test_steps_to_fit_are_drawn_only_where_something_was_fitted(tmp_path: Path) -> None:
    runs = label_noise(tmp_path, models=["mlp_1x512"])
    assert drawn("steps_to_fit", runs).figure.axes[0].get_ylabel() == "steps to fit, logarithmic"
    nearly = [with_metrics(run, steps_to_fit=None) for run in runs]
    assert drawn("steps_to_fit", nearly).figure.axes[0].get_ylabel() == "steps to fit 99 %, logarithmic"
    assert (
        picture(FIGURES["steps_to_fit"], [with_metrics(run, **{"steps_to_fit_0.99": None}) for run in nearly]) is None
    )


def test_what_is_solved_in_closed_form_takes_no_steps(tmp_path: Path) -> None:
    runs = label_noise(tmp_path, models=["inception", "kernel_gaussian"])
    for run in runs:
        run.config["model"]["closed_form"] = run.model == "kernel_gaussian"
    for make in ("figure_1b", "steps_to_fit"):
        assert set(drawn(make, runs).data["line"]) == {"inception"}
    assert set(drawn("figure_1c", runs).data["line"]) == {"inception", "kernel_gaussian"}


def test_a_line_between_the_ends_needs_levels_between_them(tmp_path: Path) -> None:
    ends = [made_up_run(tmp_path, corruption=kind, model="alexnet") for kind in ("none", "random_labels")]
    made = drawn("figure_1c", [*label_noise(tmp_path, models=["inception"]), *ends])
    assert "alexnet" not in set(made.data["line"])


def test_a_seed_without_a_fit_on_true_labels_has_no_ratio(tmp_path: Path) -> None:
    runs = label_noise(tmp_path, models=["inception"])
    runs = [with_metrics(run, steps_to_fit=None) if run.level == 0 and run.seed == 1 else run for run in runs]
    assert list(drawn("figure_1b", runs).data["n"]) == [1] * 5


def test_figure_1c_has_chance_open_markers_and_the_published_left_ends(tmp_path: Path) -> None:
    runs = label_noise(tmp_path)
    runs = [with_metrics(run, **{"fit/accuracy": 0.98}) if run.level == 1 else run for run in runs]
    made = drawn("figure_1c", runs)
    (axes,) = made.figure.axes
    assert axes.get_ylim() == (0, 100)
    assert axes.get_ylabel() == "test error (%)"
    assert [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]] == [pytest.approx(90)]  # type: ignore[index]
    published = [line for line in axes.lines if line.get_marker() == "D"]
    assert all(line.get_markerfacecolor() == "white" for line in published)
    assert sorted(points(axes, "D")) == [(0, 14.25), (0, 23.93), (0, 49.49)]
    table_1 = {claim.id: claim.value for claim in load_claims() if claim.id.startswith("table_1")}
    for model in NETWORKS:
        at_left = made.data[(made.data["kind"] == "published") & (made.data["line"] == model)]["mean"].item()
        assert at_left == pytest.approx(100 - table_1[f"table_1.{model}.none.test"])  # type: ignore[operator]
    for model in NETWORKS:
        markers = [line for line in axes.lines if line.get_marker() == known_looks()[model].marker]
        opened = [line for line in markers if line.get_markerfacecolor() == "white" and line in drawn_lines(axes)]
        assert [list(line.get_xdata()) for line in opened] == [[1.0]]  # type: ignore[arg-type]
    errors = made.data[(made.data["kind"] == "ours") & (made.data["line"] == "inception")]
    assert errors["mean"].iloc[0] == pytest.approx(14.2)
    assert errors["std"].iloc[0] == pytest.approx(np.std([14.0, 14.4], ddof=1))


@pytest.mark.parametrize(("data", "is_shown"), [("cifar10_jpeg", True), ("mnist", False)])
def test_published_numbers_stand_only_where_the_data_are_cifar10(tmp_path: Path, data: str, is_shown: bool) -> None:
    made = drawn("figure_1c", label_noise(tmp_path, data=data))
    assert bool(points(made.figure.axes[0], "D")) == is_shown
    assert ("Hollow diamonds: published" in made.caption) == is_shown
    assert ("not the originals" in made.caption) == (data == "cifar10_jpeg")


def test_the_opening_shows_the_level_nearest_to_40_percent_wrong(tmp_path: Path) -> None:
    runs = label_noise(tmp_path, models=["mlp_1x512", "inception"])
    made = drawn("learnt_then_memorised", runs)
    left, right = made.figure.axes
    assert left.get_title() == "inception, 36 % of the labels wrong"
    assert left.get_xscale() == "log"
    assert len(bands(left)) == 3
    assert right.get_ylabel() == "test error (%)"
    data = made.data[made.data["step"].notna()]
    learnt = data[data["series"] == "fit/accuracy_corrected"]["mean"]
    assert learnt.iloc[0] < learnt.max() > learnt.iloc[-1]
    assert set(data["series"]) == {"fit/accuracy_corrected", "fit/accuracy_corrupted", "test/accuracy"}
    assert points(right, "D") == points(drawn("figure_1c", runs).figure.axes[0], "D")


def test_the_oracle_never_falls_and_is_dashed(tmp_path: Path) -> None:
    networks = ("inception", "inception_no_bn")
    runs = [made_up_run(tmp_path, model=model, seed=seed) for model in networks for seed in range(2)]
    for run in runs:
        run.curves.loc[10:, "test/accuracy"] -= 0.2
    made = drawn("figure_2b", runs)
    left, right = made.figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("accuracy on training set (%)", "test accuracy (%)")
    assert len(drawn_lines(left)) == 2
    assert sum(line.is_dashed() for line in drawn_lines(right)) == 2
    data = made.data[made.data["line"] == "inception"].set_index("step")
    oracle = data[data["series"] == "best test/accuracy"]["mean"]
    measured = data[data["series"] == "test/accuracy"]["mean"]
    assert oracle.is_monotonic_increasing
    assert oracle.iloc[-1] > measured.iloc[-1] + 15
    assert "oracle" in made.caption
    assert "figure_2b" not in named([run for run in runs if run.model == "inception"])


def test_figure_2a_compares_regularizers_on_imagenet(tmp_path: Path) -> None:
    chosen: tuple[tuple[str, ...], ...] = ((), ("weight_decay",), ("dropout", "weight_decay"))
    runs = [made_up_run(tmp_path, data="imagenet", model="inception_v3", regularizers=names) for names in chosen]
    made = drawn("figure_2a", runs)
    assert set(made.data["line"]) == {"no regularizer", "weight_decay", "dropout+weight_decay"}
    elsewhere = [replace(run, path=tmp_path / "zhang2017-imagenet-digits" / run.path.name) for run in runs]
    for run in elsewhere:
        run.path.mkdir(parents=True)
        runs[0].curves.to_csv(run.path / "metrics.csv", index=False)
    digits = [replace(run, choices=run.choices | {"data": "digits"}) for run in elsewhere]
    assert "figure_2a" in named(digits)


def test_noise_in_the_inputs_counts_steps_to_99_percent_where_true_images_are_never_fitted(tmp_path: Path) -> None:
    runs = [made_up_run(tmp_path, corruption="gaussian_blend", level=level) for level in LEVELS]
    runs = [with_metrics(run, steps_to_fit=None) for run in runs]
    made = drawn("figure_input_noise", runs)
    assert made.figure.axes[2].get_ylabel() == "steps to fit 99 %, logarithmic"
    assert "at which 99 % of the training set was fitted" in made.caption
    assert not made.data["is_bound"].any()


def test_steps_that_hardly_differ_are_on_a_linear_axis(tmp_path: Path) -> None:
    def scale(*steps: int) -> str:
        folder = tmp_path / str(steps)
        kinds = zip(("none", "gaussian"), steps, strict=True)
        runs = [made_up_run(folder, corruption=kind, steps_to_fit=number) for kind, number in kinds]
        (axes,) = drawn("steps_to_fit", runs).figure.axes
        assert axes.get_ylabel().endswith("logarithmic") == (axes.get_yscale() == "log")
        return axes.get_yscale()

    assert scale(84, 100) == "linear"
    assert scale(84, 1000) == "log"


def test_each_panel_of_steps_says_how_its_own_axis_is_scaled(tmp_path: Path) -> None:
    noisy = [
        made_up_run(tmp_path, corruption="partial_labels", level=level, steps_to_fit=int(1000 + 30_000 * level))
        for level in (0.0, 0.4, 1.0)
    ]
    steps = {"none": 1000, "gaussian": 1300, "shuffled_pixels": 1800}
    kinds = [made_up_run(tmp_path, corruption=kind, steps_to_fit=number) for kind, number in steps.items()]
    axes = drawn("steps_to_fit", [*noisy, *kinds]).figure.axes
    assert [panel.get_yscale() for panel in axes] == ["log", "linear"]
    assert [panel.get_ylabel() for panel in axes] == ["steps to fit, logarithmic", "steps to fit"]


def test_noise_in_the_inputs_is_drawn_by_degrees(tmp_path: Path) -> None:
    runs = [
        made_up_run(tmp_path, corruption=kind, level=level, seed=seed)
        for kind in ("gaussian_blend", "noisy_inputs")
        for level in LEVELS
        for seed in range(2)
    ]
    runs = [with_metrics(run, steps_to_fit=None) if run.level == 1 else run for run in runs]
    found = named(runs)
    made = found["figure_input_noise"]
    assert len(made.figure.axes) == 6
    labels = ["accuracy on training set (%)", "test error (%)", "steps to fit, logarithmic"]
    assert [axes.get_ylabel() for axes in made.figure.axes] == [
        f"gaussian_blend\n{labels[0]}",
        *labels[1:],
        f"noisy_inputs\n{labels[0]}",
        *labels[1:],
    ]
    assert arrows(made.figure.axes[2]) == [(1.0, 25_000.0)]
    assert "steps_to_fit" not in found


def test_rademacher_is_a_lower_bound_with_its_spread_over_draws(tmp_path: Path) -> None:
    fits = {100: [1.0, 1.0, 1.0], 1000: [1.0, 0.95, 0.9]}
    runs = [
        made_up_run(
            tmp_path / str(size),
            corruption="random_signs",
            seed=seed,
            config={"num_train": size},
            **{"fit/accuracy": fit},
        )
        for size, values in fits.items()
        for seed, fit in enumerate(values)
    ]
    made = drawn("rademacher", runs)
    (axes,) = made.figure.axes
    assert axes.get_xscale() == "log"
    table = made.data.set_index("num_examples")
    assert table["mean"][1000] == pytest.approx(np.mean([1.0, 0.9, 0.8]))
    assert table["std"][1000] == pytest.approx(0.1)
    assert "lower bound" in made.caption
    assert "draws" in made.caption


def test_the_whole_training_set_is_counted_where_no_size_was_asked_for(tmp_path: Path) -> None:
    runs = [
        made_up_run(tmp_path / str(size), corruption="random_signs", config={"num_train": size}) for size in (100, None)
    ]
    np.savez(runs[1].path / "examples.npz", index=np.arange(1437))
    assert list(drawn("rademacher", runs).data["num_examples"]) == [100, 1437]


def test_theorem_1_notes_its_weights(tmp_path: Path) -> None:
    runs = [
        made_up_run(
            tmp_path / str(size),
            corruption="random_labels",
            model="two_layer_relu",
            seed=seed,
            steps=(1,),
            config={"num_train": size},
            **{"solution/residual": 1e-12 * size, "num_parameters": 2 * size + 64},
        )
        for size in (100, 1000)
        for seed in range(2)
    ]
    made = drawn("theorem_1", runs)
    (axes,) = made.figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert "264 or 2,064 at n = 100 or 1,000" in made.caption
    assert list(made.data["num_parameters"]) == [264, 264, 2064, 2064]
    assert list(made.data["solution/residual"]) == [1e-10, 1e-10, 1e-9, 1e-9]


def test_a_run_at_work_is_a_thin_line_with_an_open_end(tmp_path: Path) -> None:
    runs = [made_up_run(tmp_path, corruption=kind, seed=seed) for kind in FIVE_KINDS for seed in range(2)]
    at_work = made_up_run(tmp_path, corruption="none", seed=2, state="running", steps=range(500, 4001, 500))
    made = drawn("figure_1a", [*runs, at_work])
    (axes,) = made.figure.axes
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    assert [max(line.get_xdata()) for line in thin] == [4000]  # type: ignore[arg-type]
    ends = [line for line in axes.lines if line.get_marker() == "o" and line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in ends] == [[4000]]  # type: ignore[arg-type]
    assert "not finished" in made.caption
    assert "n = 2 seeds" in made.caption
    assert "Not finished: 1 of 11" in made.caption
    own = made.data[made.data["kind"] == "seed 2, running"]
    assert list(own["step"]) == list(range(500, 4001, 500))


@pytest.mark.parametrize(("budget", "ends"), [(15_000, [25_000, 25_000]), (1_200, [25_000, 1_200])])
def test_networks_with_other_budgets_have_their_own_axis(tmp_path: Path, budget: int, ends: list[float]) -> None:
    short = made_up_run(tmp_path, model="alexnet", steps=range(100, budget + 1, 100), max_steps=budget)
    made = drawn("learning_curves", [made_up_run(tmp_path), short])
    left = made.figure.axes[::2]
    assert [panel.get_xlim()[1] for panel in left] == ends
    above, below = (panel.get_xlabel() for panel in left)
    assert (above, below) == ("" if budget == 15_000 else "training steps", "training steps")


def test_a_network_of_too_many_settings_has_a_row_for_each_regularizer(tmp_path: Path) -> None:
    levels = [number / 8 for number in range(8)]
    many = [made_up_run(tmp_path, corruption="partial_labels", level=level, steps=FEW_STEPS) for level in levels]
    many.append(made_up_run(tmp_path, regularizers=["dropout"], steps=FEW_STEPS))
    few = [made_up_run(tmp_path, model="alexnet", regularizers=[kind], steps=FEW_STEPS) for kind in ("flip", "dropout")]
    made = drawn("learning_curves", [*many, *few])
    rows = [panel.get_ylabel() for panel in made.figure.axes[::2]]
    assert rows == [
        f"{name}\naccuracy on training set (%)" for name in ("inception\n+ dropout", "inception", "alexnet")
    ]
    assert set(made.data.loc[made.data["model"] == "alexnet", "line"]) == {"flip", "dropout"}
    assert "Not drawn" not in made.caption


def test_runs_that_ended_apart_have_no_mean(tmp_path: Path) -> None:
    ends = [range(100, 1001, 100), range(100, 1501, 100)]
    runs = [made_up_run(tmp_path, seed=seed, steps=steps) for seed, steps in enumerate(ends)]
    made = drawn("learning_curves", runs)
    assert not bands(made.figure.axes[0])
    assert set(made.data["kind"]) == {"seed 0, done", "seed 1, done"}
    assert "ended at different steps" in made.caption


def test_a_level_that_is_missing_is_a_gap(tmp_path: Path) -> None:
    runs = label_noise(tmp_path, models=["inception"])
    runs = [replace(run, state="missing", result=None) if run.level == 0.4 else run for run in runs]
    made = drawn("figure_1c", runs)
    ours = made.data[made.data["kind"] == "ours"].set_index("level")
    assert np.isnan(ours["mean"][0.4])
    assert ours["n"][0.4] == 0
    line = max(made.figure.axes[0].lines, key=lambda line: len(line.get_xdata()))  # type: ignore[arg-type]
    assert [x for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True) if np.isnan(y)] == [0.4]  # type: ignore[arg-type]


@pytest.mark.parametrize("state", ["running", "interrupted", "failed", "waiting", "missing"])
def test_a_sweep_of_which_nothing_is_finished_can_be_drawn(tmp_path: Path, state: Any) -> None:
    steps = () if state == "missing" else FEW_STEPS
    runs = [
        made_up_run(tmp_path, corruption=kind, level=level, model=model, state=state, steps=steps)
        for model in NETWORKS
        for kind, level in [*((kind, None) for kind in FIVE_KINDS), ("partial_labels", 0.4), ("gaussian_blend", 0.5)]
    ]
    expected = [] if state == "missing" else ["learnt_then_memorised", "figure_1a", "learning_curves"]
    found = pictures(runs)
    assert [made.name for made in found] == expected
    for made in found:
        made.to_svg()


def test_damaged_and_half_written_files_do_not_stop_the_others(tmp_path: Path) -> None:
    runs = [made_up_run(tmp_path, corruption=kind) for kind in FIVE_KINDS]
    (runs[0].path / "metrics.csv").write_text("")
    (runs[1].path / "metrics.csv").write_text("step,epoch\n100,0.2\n")
    runs[2] = replace(runs[2], state="failed", result=None, config={}, choices={})
    made = named(runs)["learning_curves"]
    assert set(made.data["line"]) == {"random_pixels", "gaussian"}


def test_each_source_of_images_has_its_own_figure(tmp_path: Path) -> None:
    runs = [*label_noise(tmp_path, models=["inception"]), *label_noise(tmp_path, models=["inception"], data="mnist")]
    found = named(runs)
    assert {"figure_1c_cifar10", "figure_1c_mnist"} <= set(found)
    assert "figure_1c" not in found
    assert found["figure_1c_mnist"].title.endswith("(mnist)")


def test_lines_across_corruptions_are_not_named_by_one_of_them(tmp_path: Path) -> None:
    kept = {1: (0.0, 0.2, 1.0), 0.25: (0.2, 0.4, 1.0)}
    runs = [
        made_up_run(tmp_path / str(every), corruption="partial_labels", level=level, config={"evaluate_every": every})
        for every, found in kept.items()
        for level in found
    ]
    known = drawn("steps_to_fit", runs).data
    assert set(known["line"]) == {"inception, evaluate_every=1", "inception, evaluate_every=0.25"}
    assert set(known.loc[known["line"] == "inception, evaluate_every=0.25", "level"]) == {0.2, 0.4, 1.0}


def test_lines_are_named_by_what_differs(tmp_path: Path) -> None:
    runs = [
        made_up_run(tmp_path, model="inception"),
        made_up_run(tmp_path, model="alexnet"),
        made_up_run(tmp_path, model="alexnet", regularizers=["dropout"]),
        made_up_run(tmp_path / "batch", model="alexnet", config={"batch_size": 32}),
    ]
    known = lines(settings(runs))
    assert {line.label for line in known} == {
        "inception, no regularizer",
        "alexnet, no regularizer, batch_size=128",
        "alexnet, no regularizer, batch_size=32",
        "alexnet, dropout",
    }
    assert len({line.look for line in known}) == 4


def test_many_settings_are_spread_and_the_caption_says_what_is_left_out(tmp_path: Path) -> None:
    levels = [number / 20 for number in range(21)]
    runs = [made_up_run(tmp_path, corruption="partial_labels", level=level, steps=FEW_STEPS) for level in levels]
    made = drawn("learning_curves", runs)
    shown = list(made.data["line"].unique())
    assert len(shown) == 8
    assert (shown[0], shown[-1]) == ("partial_labels 0", "partial_labels 1")
    assert "Not drawn are 13 settings" in made.caption


def test_what_stands_together_is_told_apart_without_colour() -> None:
    assert len({look.marker for look in PALETTE}) == len({look.colour for look in PALETTE}) == len(PALETTE)
    for together in (FIVE_KINDS, NETWORKS, ("inception", "inception_no_bn", "alexnet", "mlp_3x512", "mlp_1x512")):
        looks = looks_of(together)
        assert len({look.dashes for look in looks.values()}) == len(together)
    own = looks_of(["mine", "inception", "theirs"])
    assert own["inception"] == known_looks()["inception"]
    assert len(set(own.values())) == 3


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    runs = label_noise(tmp_path)
    made = drawn("learnt_then_memorised", runs)
    files = [made.to_svg(), made.to_pdf()]
    assert [made.to_svg(), made.to_pdf()] == files
    # Also after others have been drawn.
    again = drawn("learnt_then_memorised", runs)
    assert [again.to_svg(), again.to_pdf()] == files


def test_several_svgs_can_stand_in_one_page(tmp_path: Path) -> None:
    texts = {made.name: made.to_svg() for made in pictures(label_noise(tmp_path))}
    ids = [name for text in texts.values() for name in re.findall(r'\bid="([^"]+)"', text)]
    assert len(ids) == len(set(ids))
    for name, text in texts.items():
        assert text.startswith("<svg ")
        referred = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text))
        assert referred
        assert {first or second for first, second in referred} <= set(re.findall(r'\bid="([^"]+)"', text))
        assert "<metadata" not in text
        # A rule of its <style> touches nothing else in the page.
        assert all(rule.lstrip().startswith(f"#{name} ") for rule in re.findall(r"<style[^>]*>([^<]+)", text))
    assert ">test error (%)</text>" in texts["figure_1c"]


def test_a_pdf_embeds_its_fonts_and_knows_no_date(tmp_path: Path) -> None:
    content = drawn("figure_1c", label_noise(tmp_path)).to_pdf()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert b"/CreationDate" not in content


def test_the_users_own_matplotlib_style_changes_nothing(tmp_path: Path) -> None:
    import matplotlib as mpl

    made = drawn("figure_1c", label_noise(tmp_path)).to_svg()
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert drawn("figure_1c", label_noise(tmp_path)).to_svg() == made


def test_figures_are_drawn_without_torch() -> None:
    code = "import sys, rethinkgen.report.figures; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_runs_are_drawn(train: Command) -> None:
    budget = ["max_steps=40", "evaluate_every=1"]
    for overrides in (["none"], ["random_labels"], ["partial_labels", "data.corruption.probability=0.4"]):
        folder = train(*TINY, *budget, f"data.corruption={overrides[0]}", *overrides[1:])
    found = named(read_runs([folder.parent]))
    assert {"learnt_then_memorised", "figure_1c", "fit_against_test", "learning_curves"} <= set(found)
    learnt = found["learnt_then_memorised"]
    assert isinstance(learnt.data, pd.DataFrame)
    assert list(learnt.data[learnt.data["series"] == "test/accuracy"]["step"]) == [12, 24, 36, 40]
    assert "digits" in learnt.caption
    assert learnt.command.startswith("python train.py ")
