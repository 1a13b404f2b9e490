"""The sentence that a report begins with, and what it says of how far to trust it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import made_up_run

from rethinkgen.run.found import doubts, sentence
from rethinkgen.run.run import Run

WRONG = {"fit/accuracy_corrupted": 1.0}


def runs_of(folder: Path, corruption: str, accuracies: list[float], **more: Any) -> list[Run]:
    return [
        made_up_run(folder, corruption=corruption, seed=seed, steps=(), **{"test/accuracy": accuracy}, **more)
        for seed, accuracy in enumerate(accuracies)
    ]


def test_it_is_told_what_test_accuracy_differs_most_by(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, "none", [0.85, 0.86]) + runs_of(tmp_path, "random_labels", [0.1, 0.11], **WRONG)
    assert sentence(runs) == (
        "All 4 runs fitted their training labels, wrong ones in 2 of them; test accuracy is 85.0 to 86.0 % with no "
        "corruption and 10.0 to 11.0 % with random_labels (chance 10 %)."
    )


def test_a_range_is_of_all_runs_of_its_name_and_no_mean_over_what_was_swept(tmp_path: Path) -> None:
    runs = [
        *runs_of(tmp_path, "none", [0.9], model="inception"),
        *runs_of(tmp_path, "none", [0.5], model="mlp_1x512"),
        *runs_of(tmp_path, "shuffled_pixels", [0.8], model="inception"),
        *runs_of(tmp_path, "shuffled_pixels", [0.4], model="mlp_1x512"),
    ]
    assert "test accuracy is 80.0 to 90.0 % with inception and 40.0 to 50.0 % with mlp_1x512 (" in sentence(runs)


def test_of_many_corruptions_the_best_and_the_worst_are_told(tmp_path: Path) -> None:
    levels = (0.0, 0.2, 0.4, 0.8)
    runs = [run for level in levels for run in runs_of(tmp_path, "partial_labels", [0.9 - level], level=level)]
    assert "90.0 % with partial_labels 0 and 10.0 % with partial_labels 0.8" in sentence(runs)


def test_what_did_not_fit_is_counted(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, "none", [0.5, 0.5])
    runs += runs_of(tmp_path / "more", "none", [0.5], **{"steps_to_fit": None, "fit/accuracy": 0.97})
    assert sentence(runs).startswith("2 of 3 runs fitted their training labels (accuracy on them 97.0 to 100 %); ")
    assert sentence(runs[:1]) == (
        "The run fitted its training labels after 5,000 steps; test accuracy is 50.0 % (chance 10 %)."
    )
    assert sentence(runs[2:]).startswith("The run did not fit all its training labels; ")


def test_where_nothing_is_finished_nothing_is_found(tmp_path: Path) -> None:
    failed = [made_up_run(tmp_path, seed=seed, state="failed", steps=()) for seed in (0, 1)]
    assert sentence(failed) == "No run has finished."
    assert doubts(failed) == ["Failed with: failed."]
    other = replace(failed[0], reason="ValueError: no such file.\nTraceback")
    assert doubts([*failed, other]) == ["2 failed with: failed."]
    assert doubts([other]) == ["Failed with: ValueError: no such file."]
    assert (
        sentence(runs_of(tmp_path, "none", [float("nan")])) == "1 runs finished, none with a fit and a test accuracy."
    )


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        ({"none": 3, "random_labels": 3}, "3 runs of every setting, which differ in their seeds."),
        ({"none": 1, "random_labels": 1}, "One run a setting: how far another seed would differ is not known."),
        (
            {"none": 3, "random_labels": 1},
            "1 to 3 runs a setting, which differ in their seeds; 1 of 2 settings have one alone.",
        ),
    ],
)
def test_seeds_are_counted_by_setting(tmp_path: Path, seeds: dict[str, int], told: str) -> None:
    runs = [run for corruption, number in seeds.items() for run in runs_of(tmp_path, corruption, [0.5] * number)]
    assert doubts(runs) == [
        told,
        "The test set has 10,000 images: an accuracy is known to ± 1.0 points or better (95 %).",
    ]


def test_test_sets_of_several_sizes_and_several_versions_of_the_code(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, "none", [0.5]) + runs_of(tmp_path, "none", [0.5], data="digits")
    assert not any("test set" in doubt for doubt in doubts(runs))
    for number, run in enumerate(runs):
        assert run.result is not None
        run.result["commit"] = str(number)
    assert doubts(runs)[-1] == "The runs were made by 2 versions of rethinkgen's code."
