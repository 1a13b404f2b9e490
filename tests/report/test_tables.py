from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from rethinkgen.report.claims import judge, main_table
from rethinkgen.report.table import MOST_ROWS_OF_A_PAGE, Table
from rethinkgen.report.tables import tables
from rethinkgen.run.run import read_runs
from run_folders import write_run

Made = Callable[[], dict[str, Table]]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return lambda: {table.name: table for table in tables(read_runs([tmp_path]))}


def rows_of(table: Table) -> dict[str, dict[str, str]]:
    """Return the rows by their first cells, each a dictionary by column."""
    return {" ".join(map(str, row[:1])): dict(zip(table.columns, map(str, row), strict=True)) for row in table.rows}


def test_table_1_has_the_papers_rows_in_its_order(tmp_path: Path, made: Made) -> None:
    for seed, test in enumerate((0.50, 0.51, 0.52)):
        write_run(tmp_path, seed=seed, **{"test/accuracy": test})
    table = made()["table_1"]
    assert table.title == "Zhang et al. 2017, Table 1: cifar10, 25,000 steps"
    assert len(table.rows) == 19
    assert [row[0] for row in table.rows] == (
        5 * ["Inception"] + 3 * ["Inception w/o BatchNorm"] + 5 * ["AlexNet"] + 3 * ["MLP 3x512"] + 3 * ["MLP 1x512"]
    )
    ours = dict(zip(table.columns, table.rows[17], strict=True))
    assert ours == {
        "model": "MLP 1x512",
        "parameters": "1,209,866",
        "random crop": "no",
        "weight decay": "no",
        "labels": "true",
        "train, published": "100.00",
        "train, ours": "100 ± 0",
        "running": "–",
        "test, published": "50.51",
        "test, ours": "51.0 ± 1.0 [48.5, 53.5]",
        "difference": "+0.49",
        "binomial error": "0.50",
        "n": "3",
    }
    assert table.rows[0][5:] == ["100.00", "missing", "missing", "89.05", "missing", "–", "–", "0"]
    raw = table.csv[(table.csv["row"] == "table_1.mlp_1x512.none") & (table.csv["quantity"] == "test/accuracy")].iloc[0]
    assert raw["mean"] == pytest.approx(0.51)
    assert raw["deviation"] == pytest.approx(0.01)
    # t(0.975, 2) is 4.3027.
    assert raw["interval_low"] == pytest.approx(0.51 - 4.30265 * 0.01 / 3**0.5, abs=1e-6)
    assert raw["interval_high"] == pytest.approx(0.51 + 4.30265 * 0.01 / 3**0.5, abs=1e-6)
    assert "95 % interval of the mean (Student's t)." in table.note
    assert "no repetitions" not in table.note
    assert raw["difference"] == pytest.approx(0.0049)
    assert raw["published"] == 0.5051
    assert raw["n"] == 3


def test_repetitions_are_counted_by_any_of_their_seeds(tmp_path: Path, made: Made) -> None:
    for order_seed in range(3):
        write_run(tmp_path, keys={"data.order_seed": order_seed}, **{"test/accuracy": 0.5})
    row = made()["table_1"].rows[17]
    assert (row[9], row[-1]) == ("50.0 ± 0", "3")
    assert "differ in data.seed or data.order_seed alone: no repetitions." in made()["table_1"].note


def test_crop_rows_show_running_and_final_training_accuracy(tmp_path: Path, made: Made) -> None:
    numbers = {"fit/accuracy": 0.97, "train/accuracy_epoch": 0.91, "train/accuracy": 0.9, "test/accuracy": 0.8}
    write_run(tmp_path, model="alexnet", regularizers=["random_crop"], **numbers)
    row = dict(zip(made()["table_1"].columns, made()["table_1"].rows[9], strict=True))
    assert (row["model"], row["random crop"], row["weight decay"]) == ("AlexNet", "yes", "no")
    assert (row["train, ours"], row["running"], row["test, ours"]) == ("97.0", "91.0", "80.0")
    assert row["n"] == "1"


def test_cells_say_how_far_a_run_is(tmp_path: Path, made: Made) -> None:
    write_run(tmp_path, model="alexnet", state="failed")
    write_run(tmp_path, model="mlp_3x512", state="interrupted")
    rows = [(row[0], row[9]) for row in made()["table_1"].rows if row[2:5] == ["no", "no", "true"]]
    assert rows == [
        ("Inception", "missing"),
        ("Inception w/o BatchNorm", "missing"),
        ("AlexNet", "failed"),
        ("MLP 3x512", "interrupted"),
        ("MLP 1x512", "missing"),
    ]


def test_a_row_run_under_two_settings_is_two_rows(tmp_path: Path, made: Made) -> None:
    for coefficient in (1e-4, 5e-4):
        keys = {"regularizer.weight_decay": coefficient, "optimizer.weight_decay": coefficient}
        write_run(tmp_path, regularizers=["weight_decay"], keys=keys)
    names = [row[0] for row in made()["table_1"].rows if str(row[0]).startswith("MLP 1x512")]
    assert names[:2] == ["MLP 1x512 (weight_decay=0.0001)", "MLP 1x512 (weight_decay=0.0005)"]


def test_other_data_have_tables_of_their_own_and_no_difference(tmp_path: Path, made: Made) -> None:
    write_run(tmp_path)
    for model in ("inception", "inception_no_bn", "alexnet", "mlp_3x512", "mlp_1x512"):
        for corruption in ("none", "random_labels"):
            write_run(tmp_path, data="digits", model=model, corruption=corruption)
    found = made()
    assert [table.title for table in found.values()] == [
        "Zhang et al. 2017, Table 1: cifar10, 25,000 steps",
        "Zhang et al. 2017, Table 1: digits, 25,000 steps",
    ]
    assert [row[10] for row in found["table_1_2"].rows] == 10 * ["–"]
    # Of 360 test images.
    assert found["table_1_2"].rows[-1][11] == "2.64"


def test_cifar100_is_not_cifar10(tmp_path: Path, made: Made) -> None:
    for model in ("inception", "inception_no_bn", "alexnet", "mlp_3x512", "mlp_1x512"):
        write_run(tmp_path, data="cifar100", model=model)
        assert "table_1" not in made()
        write_run(tmp_path, data="cifar100", model=model, corruption="random_labels")
    assert [row[10] for row in made()["table_1"].rows] == 10 * ["–"]


def test_a_small_sweep_on_other_data_is_a_grid(tmp_path: Path, made: Made) -> None:
    for corruption in ("none", "shuffled_pixels"):
        for seed in (0, 1):
            write_run(tmp_path, data="digits", corruption=corruption, seed=seed, steps_to_fit=100 + 50 * seed)
    write_run(tmp_path, data="digits", corruption="random_labels", steps_to_fit=None)
    write_run(tmp_path, data="digits", corruption="gaussian", state="failed")
    (table,) = made().values()
    assert table.columns == ["corruption", "regularizer", "fit", "test", "steps to fit 100 %", "n"]
    assert rows_of(table)["shuffled_pixels"]["steps to fit 100 %"] == "125 ± 35 [-193, 443]"
    assert rows_of(table)["random_labels"]["steps to fit 100 %"] == "not fitted"
    assert rows_of(table)["random_labels"]["test"] == "50.0 %"
    assert rows_of(table)["gaussian"]["test"] == "failed"
    raw = table.csv.set_index(["corruption", "quantity"])["mean"]
    assert pd.isna(raw["random_labels", "steps_to_fit"])
    assert raw["none", "steps_to_fit"] == 125


def test_steps_to_fit_say_how_much_was_to_be_fitted(tmp_path: Path, made: Made) -> None:
    write_run(tmp_path, data="digits", corruption="gaussian", keys={"fit_threshold": 0.95})
    table = made()["grid_digits"]
    assert table.columns[-2] == "steps to fit 95 %"
    assert "the first evaluated step at which 95 % of the training set was fitted" in table.note
    write_run(tmp_path, data="digits", corruption="gaussian", keys={"fit_threshold": 1.0})
    table = made()["grid_digits"]
    assert table.columns[-2] == "steps to fit"
    assert {row[2] for row in table.rows} == {"fit_threshold=0.95", "fit_threshold=1"}


def test_several_models_stand_side_by_side(tmp_path: Path, made: Made) -> None:
    for model in ("alexnet", "mlp_1x512"):
        for level in (0.2, 0.4):
            keys = {"data.corruption.probability": level}
            write_run(tmp_path, model=model, corruption="partial_labels", keys=keys, **{"test/accuracy": 1 - level})
    write_run(tmp_path, model="alexnet", corruption="gaussian")
    found = made()
    assert list(found) == ["grid_cifar10_fit", "grid_cifar10_test", "grid_cifar10_steps_to_fit"]
    table = found["grid_cifar10_test"]
    assert table.columns == ["corruption", "regularizer", "alexnet", "mlp_1x512"]
    assert table.rows[0] == ["gaussian", "none", "50.0 % (1)", "–"]
    assert rows_of(table)["partial_labels 0.4"]["mlp_1x512"] == "60.0 % (1)"


def test_a_rate_that_goes_with_the_model_is_no_row_of_its_own(tmp_path: Path, made: Made) -> None:
    for model in ("inception", "mlp_1x512"):
        write_run(tmp_path, data="mnist", model=model)
    assert [row[0] for row in made()["grid_mnist_test"].rows] == ["none"]
    write_run(tmp_path, data="mnist", keys={"optimizer.lr": 0.5})
    table = made()["grid_mnist_test"]
    assert table.columns == ["corruption", "regularizer", "setting", "inception", "mlp_1x512"]
    assert {row[2] for row in table.rows} == {"–", "lr=0.01", "lr=0.5"}


def test_table_4_takes_running_accuracy_where_images_are_augmented(tmp_path: Path, made: Made) -> None:
    numbers = {"fit/accuracy": 0.5, "train/accuracy_epoch": 0.995}
    slow = {"schedule.factor": 0.999, "max_steps": 100_000}
    random = {"model": "inception", "corruption": "random_labels"}
    write_run(tmp_path, **random, regularizers=["random_crop"], keys=slow, **numbers)  # type: ignore[arg-type]
    for coefficient in (5e-5, 5e-4):
        keys = {"regularizer.weight_decay": coefficient, "optimizer.weight_decay": coefficient}
        write_run(tmp_path, **random, regularizers=["weight_decay"], keys=keys, **numbers)  # type: ignore[arg-type]
    rows = made()["table_4"].rows
    assert rows[0][1:] == ["weight_decay=5e-05", "100.00 % (second-hand)", "50.0 %", "-50.00", "1"]
    assert rows[1][1] == "weight_decay=0.0005"
    crop = next(row for row in rows if "random crop" in str(row[0]))
    assert crop[2:] == ["99.93 % (second-hand)", "99.50 %", "-0.43", "1"]
    assert next(row for row in rows if "AlexNet" in str(row[0]))[2:4] == ["failed to converge (second-hand)", "missing"]


def test_table_3_is_shown_for_either_data_set(tmp_path: Path, made: Made) -> None:
    keys = {"data.preprocessing": "none", "data.crop": None, "model.l2": 0.0}
    write_run(tmp_path, model="random_features", keys=keys, **{"test/accuracy": 0.83})
    table = made()["table_3"]
    row = rows_of(table)["CIFAR-10, random convolutional features; test error"]
    assert (row["ours"], row["difference"]) == ("17.0 %", "+0.00")


def test_theory_has_its_tables(tmp_path: Path, made: Made) -> None:
    for size in (1000, 100):
        for seed in (0, 1):
            numbers = {"num_parameters": 2 * size + 64, "solution/residual": 1e-9 * (1 + seed)}
            keys = {"data.num_train": size}
            write_run(tmp_path, data="digits", model="two_layer_relu", seed=seed, keys=keys, **numbers)
            fit = 0.99 + 0.01 * seed
            write_run(tmp_path, data="digits", corruption="random_signs", seed=seed, keys=keys, **{"fit/accuracy": fit})
    found = made()
    assert list(found) == ["theorem_1", "rademacher"]
    assert found["theorem_1"].columns == ["labels", "examples", "2n + d", "weights", "fitted", "residual", "n"]
    assert found["theorem_1"].rows == [
        ["none", "100", "264", "264", "100 %", "2e-09", "2"],
        ["none", "1,000", "2,064", "2,064", "100 %", "2e-09", "2"],
    ]
    assert found["rademacher"].rows[0] == ["mlp_1x512", "100", "0.990 ± 0.014 [0.863, 1.117]", "50.0 ± 0 %", "2"]
    raw = found["rademacher"].csv.set_index("quantity")["mean"]
    assert raw["rademacher"].tolist() == pytest.approx([0.99, 0.99])
    raw = found["theorem_1"].csv.set_index("quantity")["mean"]
    assert raw["worst solution/residual"].tolist() == [2e-9, 2e-9]
    assert "lower bound" in found["rademacher"].note


def test_every_model_of_a_grid_is_in_its_tables(tmp_path: Path, made: Made) -> None:
    keys = {"data.num_train": 500}
    write_run(tmp_path, data="digits", model="mlp_1x512", keys=keys)
    write_run(tmp_path, data="digits", model="mlp_1x512", corruption="gaussian", keys=keys)
    solved = {"model.closed_form": True}
    write_run(tmp_path, data="digits", model="two_layer_relu", keys=keys | solved, steps_to_fit=1)
    found = made()
    assert {"theorem_1", "grid_digits_fit"} <= set(found)
    table = found["grid_digits_steps_to_fit"]
    assert table.columns == ["corruption", "regularizer", "mlp_1x512", "two_layer_relu"]
    by_corruption = {row[0]: row[3] for row in table.rows}
    assert by_corruption == {"none": "solved", "gaussian": "–"}


ODD = Table(
    "odd_table",
    "Ours & theirs, 50 %",
    "a_b <c>",
    ["what", "fit", "verdict"],
    [
        ["x < y & z_1", "98.6 ± 0.2 %", "reproduced"],
        ["{braces} #1 $2 ~ ^ \\", "–", "same trend"],
        ["a | b", "running", "not reproduced"],
        ["none", None, "not enough runs"],
    ],
    pd.DataFrame(),
)


def test_html_is_well_formed_and_classed() -> None:
    tree = ElementTree.fromstring(ODD.to_html())
    assert tree.attrib["id"] == "table-odd_table"
    caption = tree.find("caption")
    assert caption is not None
    assert caption.findtext("p[@class='note']") == "a_b <c>"
    assert [head.attrib["scope"] for head in tree.iterfind("thead/tr/th")] == 3 * ["col"]
    assert [head.attrib["scope"] for head in tree.iterfind("tbody/tr/th")] == 4 * ["row"]
    assert tree.findtext("tbody/tr/th") == "x < y & z_1"
    assert [cell.attrib["class"] for cell in tree.iterfind("tbody/tr/td")] == [
        "num", "verdict-reproduced", "num missing", "verdict-same-trend", "num missing", "verdict-not-reproduced",
        "num missing", "verdict-not-enough-runs",
    ]  # fmt: skip


def test_latex_is_booktabs_and_escaped() -> None:
    text = ODD.to_latex()
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert r"\begin{tabular}{lrl}" in text
    assert r"\label{tab:odd_table}" in text
    assert r"\caption{Ours \& theirs, 50 \%. a\_b \textless{}c\textgreater{}}" in text
    assert r"x \textless{} y \& z\_1 & 98.6 $\pm$ 0.2 \% & reproduced \\" in text
    assert r"\{braces\} \#1 \$2 \textasciitilde{} \textasciicircum{} \textbackslash{} & -- & same trend \\" in text


def test_markdown_does_not_break_at_bars() -> None:
    lines = ODD.to_markdown().splitlines()
    assert lines[:2] == ["| what | fit | verdict |", "| --- | --: | --- |"]
    assert r"| a \| b | running | not reproduced |" in lines


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (texlive-latex-recommended)")
def test_latex_compiles(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for model in ("mlp_1x512", "alexnet"):
        write_run(sweep, model=model)
        write_run(sweep, model=model, corruption="gaussian")
        write_run(sweep, model=model, corruption="random_labels", regularizers=["weight_decay"])
    runs = read_runs([sweep])
    claims = main_table(judge(runs))
    of_several_pages = replace(claims, name="long", rows=4 * claims.rows)
    found = [*tables(runs), claims, of_several_pages, ODD]
    assert len(found) > 6
    assert len(of_several_pages.rows) > MOST_ROWS_OF_A_PAGE
    body = "\n".join(table.to_latex() for table in found)
    packages = "\\usepackage{array,booktabs,graphicx,longtable}"
    document = f"\\documentclass{{article}}\n{packages}\n\\begin{{document}}\n{body}\\end{{document}}\n"
    (tmp_path / "all.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout[-2000:]
    assert (tmp_path / "all.pdf").exists()
    # Nothing leaves the page.
    assert r"Overfull \hbox" not in told.stdout
    assert "Float too large" not in told.stdout


def test_an_own_choice_goes_by_its_name(tmp_path: Path, made: Made) -> None:
    sgd = {"optimizer._target_": "torch.optim.SGD", "optimizer.lr": 0.05, "optimizer.momentum": 0.9}
    adamw = {"optimizer._target_": "torch.optim.AdamW", "optimizer.lr": 0.001, "optimizer.weight_decay": 0}
    for choice, keys in (("sgd", sgd), ("adamw", adamw), ("adamw", adamw | {"optimizer.lr": 0.01})):
        folder = write_run(tmp_path, data="digits", keys=keys)
        result = json.loads((folder / "result.json").read_text())
        result["choices"]["optimizer"] = choice
        (folder / "result.json").write_text(json.dumps(result))
    assert {row[2] for row in made()["grid_digits"].rows} == {"sgd lr=0.05", "adamw lr=0.001", "adamw lr=0.01"}


def test_a_class_that_no_choice_tells_goes_by_its_own_name(tmp_path: Path, made: Made) -> None:
    for name in ("SGD", "AdamW"):
        write_run(tmp_path, data="digits", keys={"optimizer._target_": f"torch.optim.{name}"})
    assert {row[2] for row in made()["grid_digits"].rows} == {"optimizer=SGD", "optimizer=AdamW"}
