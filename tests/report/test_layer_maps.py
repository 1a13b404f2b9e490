"""Heat maps over tables of measures: rows of settings, panels of several tables, which rows of them, percent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import made_up_run

from rethinkgen.report.figures import Picture, picture
from rethinkgen.report.figures.declaration import check_quantities, read_figure
from rethinkgen.report.tables import tables
from rethinkgen.run.measured import file_of, measure_id, write_measured
from rethinkgen.run.quantities import observe
from rethinkgen.run.run import Run
from rethinkgen.run.where import matches

SOURCES = ("drawn anew", "0", "1ep", "as trained")
MAPS: dict[str, Any] = {
    "kind": "heatmap",
    "of": "measure/layers*/cells",
    "only": {"kind": "layer"},
    "percent": "error",
    "x": "source",
    "y": "layer",
    "value": "error",
    "rows": "settings",
    "limits": {"value": [0, 100]},
    "panels": [
        {"panel_title": "error"},
        {"of": "measure/layers*/distances", "only": {}, "value": "norm", "panel_title": "distance", "limits": {}},
    ],
}


def measured(run: Run, called: str = "layers(steps=0+1ep)", protocol: int = 2, layers: int = 3) -> None:
    """Write what a measure of layers might have left: errors that tell layer, source, seed and width."""
    cells = [
        (
            f"fc{layer}",
            kind,
            source,
            (10 * layer + place + run.seed + (40 if run.key("model.width") == 16 else 0)) / 100,
        )
        for layer in range(layers)
        for kind in ("layer", "block")
        for place, source in enumerate(SOURCES)
    ]
    columns = dict(zip(("layer", "kind", "source", "error"), map(np.array, zip(*cells, strict=True)), strict=True))
    distances = {"layer": columns["layer"], "source": columns["source"], "norm": 0.5 + columns["error"]}
    if protocol == 1:
        columns.pop("kind")
        distances.pop("source")
    parameters = {"steps": [0, "1ep"]}
    told = {"measure": "layers", "called": called, "function": "f", "protocol": protocol, "parameters": parameters}
    told |= {"numbers": {"test/critical_share": 0.25}, "step": run.end_step, "epoch": 1.0}
    path = file_of(run.path, "layers", measure_id("f", protocol, parameters), run.end_step or 0)
    write_measured(path, told, {"cells": columns, "distances": distances})


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    found = [
        made_up_run(
            tmp_path / f"{width}",
            model="mine",
            seed=seed,
            config={"model": {"_target_": "mine", "protocol": 1, "width": width}},
        )
        for width in (8, 16)
        for seed in (0, 1)
    ]
    for run in found:
        measured(run)
    return found


def drawn(declaration: dict[str, Any], runs: list[Run]) -> Picture:
    figure = read_figure("maps", declaration, "maps")
    check_quantities(figure, runs, "maps")
    made = picture(figure, runs)
    assert made is not None
    return made


def test_a_row_of_maps_for_each_setting(runs: list[Run]) -> None:
    made = drawn(MAPS, runs)
    axes = made.figure.axes[:4]
    assert [place.get_title() for place in axes] == ["error", "distance"] * 2
    assert [place.get_ylabel() for place in axes] == ["mine, width=8\nlayer", "", "mine, width=16\nlayer", ""]
    # Layers from above in the order of the table, sources from the left.
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["fc0", "fc1", "fc2"]
    assert axes[0].get_ylim()[0] > axes[0].get_ylim()[1]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == list(SOURCES)
    # Means over two seeds, in percent; the blocks are not among them, and the distances are no shares.
    texts = [[text.get_text() for text in place.texts] for place in axes]
    assert texts[0][:5] == ["0.5", "1.5", "2.5", "3.5", "10.5"]
    assert texts[2][:2] == ["40.5", "41.5"]
    assert texts[1][0] == "0.505"
    assert len(texts[0]) == 12
    assert axes[0].collections[0].get_clim() == (0, 100)
    assert axes[1].collections[0].get_clim() != (0, 100)
    assert "A field is the mean over its runs (n = 2)." in made.caption
    first = made.data[(made.data["row"] == "mine, width=8") & (made.data["panel"] == "error")]
    assert set(first["kind"]) == {"layer"}
    assert first["error"].tolist()[:2] == pytest.approx([0, 1])


def test_many_layers_are_as_high_as_they_need(runs: list[Run]) -> None:
    few = drawn(MAPS, runs).figure.get_size_inches()
    for run in runs:
        measured(run, layers=60)
    made = drawn(MAPS, read_again(runs))
    assert made.figure.get_size_inches()[1] > few[1] + 2 * 50 * 0.15
    assert len(made.figure.axes[0].texts) == 240


def test_maps_beside_curves_are_as_wide_as_their_numbers_need(runs: list[Run]) -> None:
    curves = {"of": "runs", "kind": "curves", "only": {}, "x": None, "value": None, "y": "test/accuracy"}
    made = drawn({**MAPS, "rows": None, "panels": [curves, {}, {}]}, runs)
    _, second, third = made.figure.axes[:3]
    assert made.figure.get_size_inches()[0] == pytest.approx(3.4 + 2 * (1.2 + 0.36 * 4))
    # Layers are named once, beside the first map.
    assert (second.get_ylabel(), third.get_ylabel()) == ("layer", "")


def test_of_what_was_measured_otherwise_nothing_is_drawn(runs: list[Run]) -> None:
    """An earlier protocol has other columns: it must not take the page with it."""
    for run in runs[:2]:
        for path in run.path.glob("measures/*/*"):
            path.unlink()
        measured(run, protocol=1)
    made = drawn(MAPS, read_again(runs))
    assert {place.get_ylabel() for place in made.figure.axes[:2]} == {"mine, width=16\nlayer", ""}
    assert "(layers(steps=0+1ep) has no kind)" in made.caption
    of_one = {**MAPS, "of": "measure/layers(steps=0+1ep)/cells", "panels": None}
    with pytest.raises(ValueError, match=r"maps: only: kind: no column of measure/layers\(steps=0\+1ep\)/cells"):
        drawn(of_one, read_again(runs))


def test_a_table_that_is_not_there_is_named(runs: list[Run]) -> None:
    with pytest.raises(ValueError, match=r"of=measure/layers\*/distance: no such table\."):
        drawn({**MAPS, "panels": [{}, {"of": "measure/layers*/distance"}]}, runs)


def test_a_number_is_found_whatever_the_parameters_of_its_measure_are(runs: list[Run]) -> None:
    assert observe(runs[0], "measure/layers*/test/critical_share") == 0.25
    assert observe(runs[0], "measure/layers*/test/critical") is None
    assert matches(runs[0], {"measure/layers*/test/critical_share": {"at_least": 0.25}})
    assert not matches(runs[0], {"measure/layers*/test/critical_share": {"at_least": 0.26}})
    assert not matches(runs[0], {"measure/layers*/test/critical": {"at_least": 0}})


def test_the_papers_table_has_a_row_for_each_setting(tmp_path: Path) -> None:
    runs = []
    for kind, rise in (("none", 0.5), ("random_labels", -0.02)):
        for seed in (0, 1):
            run = made_up_run(tmp_path / kind, model="fcn_3x256", corruption=kind, seed=seed)
            numbers = {"test/error": 0.02, "test/first_layer": rise + 0.02 * seed, "test/robust_together": None}
            told = {"measure": "layer_robustness", "called": "layer_robustness(num_draws=3)", "function": "f"}
            told |= {"protocol": 2, "parameters": {}, "numbers": numbers, "step": run.end_step, "epoch": 1.0}
            write_measured(file_of(run.path, "layer_robustness", "abc123", run.end_step or 0), told, {})
            runs.append(run)
    (table,) = [table for table in tables(runs) if table.name == "layers"]
    rows = [dict(zip(table.columns, cells, strict=True)) for cells in table.texts]
    assert [row["labels"] for row in rows] == ["none", "random_labels"]
    assert [row["test error"] for row in rows] == ["2.0 ± 0", "2.0 ± 0"]
    # Points have no ends at 0 and 100; and what a finished run has no number of is none to come.
    assert rows[0]["first layer put back"] == "+51.00 ± 1.41 [38.29, 63.71] points"
    assert rows[1]["first layer put back"] == "-1.00 ± 1.41 [-13.71, 11.71] points"
    assert [row["robust ones together"] for row in rows] == ["\u2013", "\u2013"]


def read_again(runs: list[Run]) -> list[Run]:
    """Return the same runs, of whose files nothing has been read yet."""
    return [replace(run) for run in runs]
