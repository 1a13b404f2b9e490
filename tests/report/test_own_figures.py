"""Figures that users declare: what is guessed, what is refused and how, every kind over runs and over a table."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_run

from rethinkgen.commands.report import declared_in
from rethinkgen.report.figures import Picture, picture
from rethinkgen.report.figures.declaration import Figure, check_quantities, packaged, read_figure
from rethinkgen.report.figures.guess import completed
from rethinkgen.run.measured import file_of, measure_id, write_measured
from rethinkgen.run.own_code import opening
from rethinkgen.run.rows import as_pictures
from rethinkgen.run.run import Run
from rethinkgen.run.settings import axes_of

FEW_STEPS = range(1000, 25_001, 6000)


def widths(folder: Path, *, seeds: int = 3, kinds: tuple[str, ...] = ("none", "gaussian")) -> list[Run]:
    return [
        made_up_run(
            folder / f"{width}",
            corruption=kind,
            model="mine",
            seed=seed,
            steps=FEW_STEPS,
            config={"model": {"_target_": "mine", "protocol": 1, "width": width}},
            **{"test/accuracy": (0.4 if kind == "none" else 0.2) + 0.1 * number + 0.01 * seed},
        )
        for number, width in enumerate((8, 16, 32))
        for kind in kinds
        for seed in range(seeds)
    ]


def drawn(declaration: dict[str, Any], runs: list[Run], tables: dict[str, pd.DataFrame] | None = None) -> Picture:
    figure = read_figure("mine", declaration, "mine", may_guess=True)
    if figure.of not in (tables or {}):
        check_quantities(figure, runs, "mine")
        figure = completed(figure, runs)
    found = picture(figure, runs, tables)
    assert found is not None
    return found


def test_a_line_says_all_that_it_takes(tmp_path: Path) -> None:
    (figure,) = declared_in("{x: model.width, y: test/accuracy, series: data.corruption}")
    made = picture(figure, widths(tmp_path))
    assert made is not None
    (axes,) = made.figure.axes
    assert axes.get_xlabel() == "model.width, logarithmic"
    assert [axes.get_xaxis().get_ticklocs().tolist()] == [[8, 16, 32]]
    assert axes.get_ylabel() == "test accuracy (%)"
    assert [text.get_text() for text in made.figure.legends[0].get_texts()] == ["none", "gaussian"]
    table = made.data[made.data["line"] == "none"]
    assert table["model.width"].tolist() == [8, 16, 32]
    assert table["mean"].tolist() == pytest.approx([41, 51, 61])
    # t(0.975, 2) is 4.3027, the deviation of 40, 41 and 42 is 1.
    assert (table["high"] - table["mean"]).tolist() == pytest.approx(3 * [4.30265 / 3**0.5], rel=1e-5)
    assert "n = 3 seeds" in made.caption
    assert "95 % interval (Student's t)" in made.caption


def test_what_is_not_said_is_guessed_from_what_varies(tmp_path: Path) -> None:
    runs = widths(tmp_path)
    assert axes_of(runs) == ["model.width", "data.corruption"]
    made = drawn({}, runs)
    assert made.title == "Test accuracy against model.width, by data.corruption"
    assert set(made.data["line"]) == {"none", "gaussian"}
    only_kinds = [made_up_run(tmp_path / "kinds", corruption=kind, steps=FEW_STEPS) for kind in ("none", "gaussian")]
    assert drawn({}, only_kinds).data["data.corruption"].tolist() == ["none", "gaussian"]
    levels = [made_up_run(tmp_path / "levels", corruption="partial_labels", level=level) for level in (0.0, 0.5, 1.0)]
    assert drawn({}, levels).data["level"].tolist() == [0, 0.5, 1]


def test_nothing_to_guess_from_is_told(tmp_path: Path) -> None:
    runs = [made_up_run(tmp_path, seed=seed) for seed in range(2)]
    with pytest.raises(ValueError, match="x: is missing, and nothing varies in these runs but their seeds"):
        drawn({"y": "test/accuracy"}, runs)


def test_what_goes_with_the_axis_is_no_other_line(tmp_path: Path) -> None:
    runs = widths(tmp_path, seeds=1, kinds=("none",))
    for run in runs:
        run.config["optimizer"] = {"_target_": "SGD", "lr": 1 / run.key("model.width")}
    made = drawn({"x": "model.width", "y": "test/accuracy"}, runs)
    assert made.data["model.width"].tolist() == [8, 16, 32]
    assert made.data["line"].nunique() == 1


def test_nothing_that_was_swept_is_averaged_over(tmp_path: Path) -> None:
    made = drawn({"x": "model.width", "y": "test/accuracy", "where": {"model": "m*"}}, widths(tmp_path))
    assert made.data.groupby("line")["n"].unique().map(list).to_dict() == {"none": [3], "gaussian": [3]}


@pytest.mark.parametrize(
    ("declaration", "said"),
    [
        ("{colour: red}", "colour: no such key"),
        ("{seris: model}", "Did you mean series"),
        (
            "{kind: line}",
            "'heatmap', 'pictures' is needed. Did you mean lines?",
        ),
        ("{kind: heatmap, x: level, y: model}", "value: is missing; kind=heatmap needs x, y, value"),
        ("{kind: scatter, x: level}", "y: is missing; kind=scatter needs x, y"),
        ("{spread: std}", "spread='std': one of 'seed', 'none', 'median' is needed"),
        ("{marks: [chanse]}", "marks='chanse': one of 'chance', 'unfitted' is needed. Did you mean chance?"),
        ("{panels: [{ex: level}]}", "panels: ex: no such key"),
        ("{pick: nowhere}", "nowhere: there is no such function in rethinkgen.report.figures.chosen"),
        ("{pick: finished}", "there is no such function"),
        ("{pick: os.system}", "os.system: its package is not open: code="),
        ("{x: [}", "not YAML"),
        ("level", "key: value pairs are needed"),
        ("none.yaml", "there is no such file"),
    ],
)
def test_a_declaration_at_fault_is_told_by_name(declaration: str, said: str) -> None:
    with pytest.raises(ValueError, match="figure=") as error:
        declared_in(declaration)
    assert said in str(error.value)


def test_a_quantity_that_no_run_has_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"y=test/acuracy: no run has it\. Did you mean test/accuracy\?"):
        drawn({"x": "model.width", "y": "test/acuracy"}, widths(tmp_path))
    with pytest.raises(ValueError, match=r"rows=model\.widht: no run has it\. Did you mean model\.width\?"):
        drawn({"kind": "curves", "y": "test/accuracy", "rows": "model.widht"}, widths(tmp_path))


def test_every_kind_over_runs(tmp_path: Path) -> None:
    runs = widths(tmp_path)
    heat = drawn({"kind": "heatmap", "x": "model.width", "y": "data.corruption", "value": "test/accuracy"}, runs)
    assert fields(heat).tolist() == [pytest.approx([41, 51, 61]), pytest.approx([21, 31, 41])]
    assert "<image" not in heat.to_svg()
    spread = drawn({"kind": "histogram", "x": "test/accuracy", "series": "data.corruption"}, runs)
    assert sum(patch.get_height() for patch in spread.figure.axes[0].patches) == len(runs)  # type: ignore[attr-defined]
    curves = drawn({"kind": "curves", "y": "train/loss", "rows": "data.corruption"}, runs)
    assert [axes.get_ylabel().partition("\n")[0] for axes in curves.figure.axes] == ["none", "gaussian"]
    assert set(curves.data["line"]) == {"width=8", "width=16", "width=32"}
    clouds = drawn({"kind": "scatter", "x": "train/loss", "y": "test/accuracy"}, with_loss(runs))
    assert len(clouds.data) == len(runs)


def fields(heat_map: Picture) -> np.ndarray[Any, Any]:
    """Return the numbers whose colours a heat map shows, from below."""
    (mesh,) = heat_map.figure.axes[0].collections
    return np.ma.filled(np.ma.asarray(mesh.get_array()), np.nan)


def with_loss(runs: list[Run]) -> list[Run]:
    for run in runs:
        run.metrics["train/loss"] = 1.0 - run.metrics["test/accuracy"]
    return runs


def test_every_kind_over_a_measures_table() -> None:
    layers = pd.DataFrame(
        {"layer": [1, 1, 2, 2], "step": [1, 2, 1, 2], "error": [1.0, 3.0, 2.0, 6.0], "half": ["a", "b", "a", "b"]}
    )
    made = drawn({"of": "layers", "x": "layer", "y": "error"}, [], {"layers": layers})
    assert made.data["mean"].tolist() == [2, 4]
    made = drawn({"of": "layers", "kind": "curves", "y": "error", "series": "half"}, [], {"layers": layers})
    assert made.data.set_index("line")["mean"].to_dict() == {"a": 1.5, "b": 4.5}
    made = drawn({"of": "layers", "kind": "scatter", "x": "layer", "y": "error"}, [], {"layers": layers})
    assert len(made.data) == 4
    made = drawn({"of": "layers", "kind": "histogram", "x": "error"}, [], {"layers": layers})
    assert sum(patch.get_height() for patch in made.figure.axes[0].patches) == 4  # type: ignore[attr-defined]
    made = drawn(
        {"of": "layers", "kind": "heatmap", "x": "step", "y": "layer", "value": "error"}, [], {"layers": layers}
    )
    assert fields(made).tolist() == [[1, 3], [2, 6]]
    shown = pd.DataFrame({"image": [np.full((4, 4), shade) for shade in (0.0, 0.5, 1.0)], "score": [0.1, 0.2, 0.3]})
    made = drawn({"of": "worst", "kind": "pictures", "y": "image", "value": "score"}, [], {"worst": shown})
    titles = [axes.get_title() for axes in made.figure.axes[0].child_axes]
    assert titles == ["0.1", "0.2", "0.3"]
    assert made.data.columns.tolist() == ["score", "line", "series"]


def test_pictures_of_a_table_with_a_row_for_each_pixel_are_put_together() -> None:
    images = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones((2, 3))}
    places = [(name, i, j) for name in images for j in range(3) for i in range(2)]
    pixels = {
        "name": [name for name, *_ in places],
        "row": [i for _, i, _ in places],
        "column": [j for *_, j in places],
        "shade": [images[name][i, j] for name, i, j in places],
    }
    table = as_pictures(pd.DataFrame(pixels), "shade")
    assert table["name"].tolist() == ["a", "b"]
    assert all(np.array_equal(found, images[name]) for name, found in zip(table["name"], table["shade"], strict=True))
    coloured = pd.concat(
        [pd.DataFrame(pixels).assign(channel=c, shade=lambda t, c=c: t["shade"] + c) for c in range(3)]
    )
    first = as_pictures(coloured, "shade")["shade"].iloc[0]
    assert first.shape == (2, 3, 3)
    assert (first[0, 0].tolist(), first[1, 2].tolist()) == ([0, 1 / 7, 2 / 7], [5 / 7, 6 / 7, 1])
    assert len(as_pictures(coloured[coloured["channel"] < 2], "shade")) == 4
    # Of two settings, and of the first of a setting's runs.
    shown = pd.concat([table.assign(run=run, line=run[0]) for run in ("x1", "x2", "y1")])
    made = drawn({"of": "all", "kind": "pictures", "y": "shade", "value": "name", "series": "line"}, [], {"all": shown})
    bands = made.figure.axes[0].child_axes
    assert [band.get_title(loc="left") for band in bands] == ["x", "y"]
    assert [[each.get_title() for each in band.child_axes] for band in bands] == [["a", "b"], ["a", "b"]]


def test_a_column_that_a_table_lacks_is_told() -> None:
    with pytest.raises(ValueError, match=r"eror: no column of layers\. There are layer, error"):
        drawn({"of": "layers", "x": "layer", "y": "eror"}, [], {"layers": pd.DataFrame({"layer": [1], "error": [1.0]})})


def test_a_function_of_ones_own_picks_where_the_command_opens_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_figures_code.py").write_text("def widest(groups):\n    return groups[-1]\n")
    monkeypatch.chdir(tmp_path)
    runs = widths(tmp_path)
    declaration = {"kind": "curves", "y": "test/accuracy", "pick": "my_figures_code.widest"}
    with pytest.raises(ValueError, match="code=my_figures_code on the command line"):
        drawn(declaration, runs)
    with opening(["my_figures_code"]):
        made = drawn(declaration, runs)
        assert made.data["line"].nunique() == 1
    sys.modules.pop("my_figures_code")


def test_a_file_has_several_figures(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("figures:\n  one: {x: level, y: test/error}\n  two: {kind: curves, y: train/loss, leads: false}\n")
    assert [(figure.name, figure.leads) for figure in declared_in(str(path))] == [("one", True), ("two", False)]
    path.write_text("one: {x: level}\n")
    with pytest.raises(ValueError, match="figures: is missing"):
        declared_in(str(path))


def test_declarations_of_ours_are_complete() -> None:
    names = [figure.name for figure in packaged()]
    assert len(names) == len(set(names)) >= 20
    assert {"learnt_then_memorised", "layer_maps"} <= {figure.name for figure in packaged() if figure.leads}
    assert all(isinstance(figure, Figure) and figure.title for figure in packaged())


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ("where: 3", "where=3"),
        ("where: {modle: mlp}", "where=modle: no run has it. Did you mean model"),
        ("rows: 3", "rows=3"),
        ("rows: seed", "rows=seed: runs that differ in their seeds alone are one line"),
        ("series: seed", "series=seed: runs that differ in their seeds alone are one line"),
        ("series: test/accuracy", "series=test/accuracy: runs that differ"),
        ("limits: 3", "limits=3"),
        ("limits: {y: 3}", "limits: y=3"),
        ("limits: {y: [0]}", "limits: y: [low, high] is needed"),
        ("limits: {y: [0, a]}", "limits: y='a': a number is needed"),
        ("limits: {z: [0, 1]}", "limits='z'"),
        ("labels: {model.width: 3}", "labels: model.width=3"),
        ("relative_to: {level: 0}", "{model.width: VALUE} is needed"),
        ("instead: {test/accuracy: nonesuch}", "instead=nonesuch: no run has it"),
        ("needs: 3", "needs=3"),
        ("best: test/acuracy", "best=test/acuracy: no run has it"),
        ("published: 3", "published=3"),
        ("caption: 3", "caption=3"),
        ("title: [a]", "title="),
        ("leads: 3", "leads=3"),
        ("y: []", "y=[]"),
        ("y: data.corruption", "data.corruption: has names as values"),
        ("kind: scatter, y: data.corruption", "data.corruption: has names as values"),
        ("kind: heatmap, y: data.corruption, value: model", "model: has names as values"),
        ("kind: curves, y: value, of: critical_samples", "of=critical_samples: no such table. No measure has left any"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_its_key(told: str, named: str, tmp_path: Path) -> None:
    def read() -> None:
        (figure,) = declared_in(f"{{x: model.width, {told}}}")
        check_quantities(figure, widths(tmp_path, seeds=1), "mine")

    with pytest.raises(ValueError, match=re.escape(named)):
        read()


def test_one_name_stands_for_a_list_of_it() -> None:
    (figure,) = declared_in("{x: model.width, marks: chance, merge: evaluate_every, log: x}")
    assert (figure.marks, figure.merge, figure.log) == (["chance"], ["evaluate_every"], ["x"])


def test_a_ratio_of_shares_is_no_percentage(tmp_path: Path) -> None:
    told = {"x": "model.width", "y": "test/accuracy", "relative_to": {"model.width": 8}, "series": "data.corruption"}
    made = drawn(told, widths(tmp_path, seeds=1))
    assert made.data[made.data["line"] == "none"]["mean"].tolist() == pytest.approx([1, 1.25, 1.5])
    low, high = made.figure.axes[0].get_ylim()
    assert 0 < low < 1 < 1.5 < high < 2.5


def test_what_is_relative_to_nothing_is_left_out(tmp_path: Path) -> None:
    runs = [
        made_up_run(
            tmp_path / f"{width}",
            steps=FEW_STEPS,
            config={"model": {"_target_": "mine", "width": width}},
            **{"test/loss": float(width - 8)},
        )
        for width in (8, 16)
    ]
    figure = read_figure("mine", {"x": "model.width", "y": "test/loss", "relative_to": {"model.width": 8}}, "mine")
    assert picture(figure, runs) is None


@pytest.mark.parametrize(
    "told",
    [
        "{x: model.sizes, y: test/accuracy}",
        "{kind: curves, y: test/accuracy, rows: model.sizes, caption: 'Of {model.sizes}.'}",
        "{kind: scatter, x: model.sizes, y: test/accuracy}",
    ],
)
def test_a_key_may_hold_a_list(told: str, tmp_path: Path) -> None:
    runs = [
        made_up_run(
            tmp_path / f"{number}",
            steps=FEW_STEPS,
            config={"model": {"_target_": "mine", "sizes": sizes}},
            **{"test/accuracy": 0.5},
        )
        for number, sizes in enumerate(([512], [512, 512]))
    ]
    (figure,) = declared_in(told)
    check_quantities(figure, runs, "mine")
    made = picture(completed(figure, runs), runs)
    assert made is not None
    assert "[512, 512]" in f"{made.data.to_csv()}{made.caption}"


def test_a_heat_map_says_what_its_fields_are_means_over(tmp_path: Path) -> None:
    told = {"kind": "heatmap", "x": "model.width", "y": "data.corruption", "value": "test/accuracy"}
    runs = widths(tmp_path, seeds=2)
    assert "A field is the mean over its runs (n = 2)." in drawn(told, runs).caption
    assert "more than their seeds" not in drawn(told, runs).caption
    mixing = drawn({**told, "y": "model"}, runs)
    assert "In 3 of 3 fields these differ in more than their seeds." in mixing.caption


def test_a_run_that_was_not_fitted_is_an_arrow_in_a_scatter_plot_too(tmp_path: Path) -> None:
    runs = [
        made_up_run(tmp_path / f"{seed}", seed=seed, steps=FEW_STEPS, steps_to_fit=steps)
        for seed, steps in enumerate((400, 800, None))
    ]
    made = drawn({"kind": "scatter", "x": "test/accuracy", "y": "steps_to_fit"}, runs)
    plain = [line for line in made.figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert sorted(y for line in plain for y in np.asarray(line.get_ydata()).tolist()) == [400, 800]
    assert "An arrow is a lower bound" in made.caption


def test_what_was_not_reached_is_no_number_in_a_heat_map(tmp_path: Path) -> None:
    runs = [
        made_up_run(tmp_path, corruption=kind, seed=seed, steps=FEW_STEPS, steps_to_fit=steps)
        for kind, of_seeds in {"none": (400, 600), "random_labels": (800, None), "gaussian": (700, 700)}.items()
        for seed, steps in enumerate(of_seeds)
    ]
    made = drawn({"kind": "heatmap", "x": "model", "y": "data.corruption", "value": "steps_to_fit"}, runs)
    axes = made.figure.axes[0]
    assert fields(made).ravel().tolist() == pytest.approx([500, np.nan, 700], nan_ok=True)
    assert [text.get_text() for text in axes.texts] == ["500", "≥ 12,900", "700"]
    assert made.data["is_bound"].tolist() == [False, False, False, True, False, False]
    assert "A field without colour is a lower bound" in made.caption


@pytest.mark.parametrize("kind", ["histogram", "scatter"])
def test_runs_without_the_number_are_counted_in_the_caption(kind: str, tmp_path: Path) -> None:
    runs = widths(tmp_path)
    for run in runs[:4]:
        run.metrics["test/accuracy"] = None
    made = drawn({"kind": kind, "x": "test/accuracy", **({"y": "fit/accuracy"} if kind == "scatter" else {})}, runs)
    assert len(made.data) == len(runs) - 4
    assert "Not drawn: 4 runs without test/accuracy." in made.caption


def test_steps_that_were_not_reached_are_in_no_bin(tmp_path: Path) -> None:
    runs = [
        made_up_run(tmp_path, seed=seed, steps=FEW_STEPS, steps_to_fit=steps)
        for seed, steps in enumerate((400, 800, None))
    ]
    made = drawn({"kind": "histogram", "x": "steps_to_fit"}, runs)
    assert made.data["steps_to_fit"].tolist() == [400, 800]
    assert "Not drawn: 1 run without steps_to_fit." in made.caption


@pytest.mark.parametrize("key", ["caption", "panel_title"])
def test_a_mistyped_name_in_words_is_refused(key: str, tmp_path: Path) -> None:
    told = {"x": "model.width", "y": "test/accuracy", key: "Of {modle}."}
    with pytest.raises(ValueError, match=rf"{key}=modle: no run has it\. Did you mean model"):
        drawn(told, widths(tmp_path, seeds=1))
    # Of a paper's figure nobody can tell a typo from what these runs lack: it is there to be seen.
    made = picture(read_figure("theirs", told, "theirs"), widths(tmp_path, seeds=1))
    assert made is not None
    assert "{modle}" in made.caption + made.figure.axes[0].get_title()


def test_a_measures_table_of_runs_is_drawn_by_its_name(tmp_path: Path) -> None:
    runs = widths(tmp_path, seeds=2, kinds=("none",))[:4]
    for run in runs:
        for step in (0, 40):
            named = {"measure": "robust", "called": "robust", "function": "f", "protocol": 1}
            told = {**named, "parameters": {}, "numbers": {}, "step": step, "epoch": step / 391}
            errors = np.array([0.1, 0.3]) + 0.01 * run.seed + (1 if step else 0) + 0.1 * (run.key("model.width") == 16)
            layers = {"layer": np.array([1, 2]), "error": errors, "half": np.array(["a", "b"])}
            known_by = measure_id("f", 1, {})
            write_measured(file_of(run.path, "robust", known_by, step), told, {"layers": layers})
    made = drawn({"of": "measure/robust/layers", "x": "layer", "y": "error"}, runs)
    # The last step; two seeds each; a line for each width.
    assert made.data.groupby("line")["mean"].apply(list).to_dict() == {
        "mine, width=16": pytest.approx([1.205, 1.405]),
        "mine, width=8": pytest.approx([1.105, 1.305]),
    }
    assert set(made.data["n"]) == {2}
    assert "n = 2 seeds" in made.caption
    axes = made.figure.axes[0]
    # Nothing is known of a column but its name: it is no share in percent.
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layer", "error")
    assert axes.get_ylim()[1] < 2
    assert "Data: cifar10" in made.caption
    made = drawn({"of": "measure/robust/layers", "kind": "curves", "y": "error", "series": "half"}, runs[:2])
    assert made.data.groupby("line")["mean"].apply(list).to_dict() == {
        "a": pytest.approx([0.105, 1.105]),
        "b": pytest.approx([0.305, 1.305]),
    }
    with pytest.raises(ValueError, match=r"robust/layer: no such table\. Did you mean measure/robust/layers"):
        drawn({"of": "measure/robust/layer", "x": "layer", "y": "error"}, runs)
    with pytest.raises(ValueError, match=r"lair: no column of measure/robust/layers\. There are step, layer, error"):
        drawn({"of": "measure/robust/layers", "x": "lair", "y": "error"}, runs)
