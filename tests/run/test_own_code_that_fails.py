"""Code of the user's own that fails is told in words: the cause, the file and line, and what its place wants."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import TINY, Command
from rethinkgen.data.corruption import RandomLabels
from rethinkgen.data.source import Digits
from rethinkgen.run.description import look_again

HEAD = """
import numpy as np
import torch
from torch import nn
from rethinkgen.data.corruption import RandomLabels
from rethinkgen.data.module import CorruptedImages, Labels
from rethinkgen.data.source import Digits
from rethinkgen.train.classifier import Classifier


class Mine(CorruptedImages):
    def corrupt_labels(self, labels, keys, num_classes):
        {corrupt_labels}

    def pixel_pattern(self, split, keys):
        {pixel_pattern}

    def corrupt_pixels(self, images, pattern):
        {corrupt_pixels}

    def replace_task(self, images):
        {replace_task}

    def drawn_pixels(self, split, keys):
        {drawn_pixels}


class FewArguments(CorruptedImages):
    def corrupt_labels(self, labels):
        return labels


class Net(Classifier):
    def build(self, image_shape, num_classes):
        {build}


class Loss:
    def __call__(self, logits, labels, index):
        {loss}


class Penalty:
    def __call__(self, network, logits, labels):
        {penalty}


class Source(Digits):
    def load(self):
        {load}

    def fingerprint(self):
        {fingerprint}


def falling(step, total_steps):
    {schedule}
"""
GOOD = {
    "corrupt_labels": "return Labels(labels, np.zeros(len(labels), dtype=bool))",
    "pixel_pattern": "return ()",
    "corrupt_pixels": "return images",
    "replace_task": "return images",
    "drawn_pixels": "return np.zeros(len(keys), dtype=bool)",
    "build": "return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))",
    "loss": "return nn.functional.cross_entropy(logits, labels, reduction='none')",
    "penalty": "return logits.square().mean()",
    "load": "return super().load()",
    "fingerprint": "return super().fingerprint()",
    "schedule": "return 1 - step / (total_steps + 1)",
}
PLACE = {
    **dict.fromkeys(
        ("corrupt_labels", "pixel_pattern", "corrupt_pixels", "replace_task", "drawn_pixels"), "corruption"
    ),
    **{
        "build": "model",
        "loss": "loss",
        "penalty": "penalty",
        "load": "source",
        "fingerprint": "source",
        "schedule": "schedule",
    },
}
CHOSEN = {
    "corruption": ["data.corruption._target_=my_own.Mine"],
    "few": ["data.corruption._target_=my_own.FewArguments"],
    "model": ["model=mlp_1x512", "model._target_=my_own.Net", "~model.width", "~model.depth"],
    "loss": ["loss._target_=my_own.Loss", "~loss.label_smoothing"],
    "penalty": ["+regularizer.mine._target_=my_own.Penalty"],
    "source": ["data.source._target_=my_own.Source"],
    "schedule": ["schedule=constant", "schedule._target_=my_own.falling"],
}
Failing = Callable[..., str]


@pytest.fixture
def failing(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Failing]:
    """Write ``my_own.py`` with one line of it changed, and return what a command that uses it says."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(chosen: str, source: str) -> str:
        (tmp_path / "my_own.py").write_text(source)
        sys.modules.pop("my_own", None)
        look_again()
        with pytest.raises(SystemExit) as end:
            train(*[item for item in TINY if not item.startswith("model")] if chosen == "model" else TINY,
                  *CHOSEN[chosen], "code=my_own", "max_steps=3")  # fmt: skip
        assert end.value.code == 1
        assert list(tmp_path.glob("multirun/*/*")) == []
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    yield run
    sys.modules.pop("my_own", None)
    look_again()


def source(**changed: str) -> str:
    text = HEAD
    for name, line in (GOOD | changed).items():
        text = text.replace(f"{{{name}}}", line)
    return text


def line_of(text: str, words: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if words in line)


@pytest.mark.parametrize(
    ("method", "line", "said"),
    [
        (
            "corrupt_labels",
            "return labels",
            r"returned ndarray int64 \(1437,\)\. Labels\(labels, is_drawn\), .* wanted",
        ),
        ("corrupt_labels", "return labels * 1.0, labels > 3", r"tuple\(ndarray float64 .* labels int64 \(1437,\)"),
        ("corrupt_labels", "return Labels(labels + 1, labels > 3)", r"classes from 1 to 10\. .* of classes 0 to 9"),
        ("corrupt_labels", "return Labels(labels[1:], labels[1:] > 3)", r"int64 \(1436,\).* bool \(1437,\)"),
        ("corrupt_labels", "return Labels(labels, labels)", r"is_drawn bool \(1437,\)"),
        ("pixel_pattern", "return torch.zeros(len(keys))", r"returned Tensor float32 \(1024,\)\. a tuple of tensors"),
        (
            "corrupt_pixels",
            "return images[:, :, 1:]",
            r"Tensor float32 \(1024, 1, 7, 8\)\. a float tensor \(1024, 1, 8",
        ),
        ("corrupt_pixels", "return images.numpy()", r"returned ndarray float32"),
        ("replace_task", "return None", r"returned NoneType\. the images with other labels"),
        ("drawn_pixels", "return keys", r"returned ndarray uint64 .* an array bool"),
        ("load", "return [1, 2]", r"returned list\. Images\(train, test, class_names\) is wanted"),
        ("build", "return nn.Flatten()", r"builds a network without a parameter"),
        (
            "build",
            "return nn.Sequential(nn.Flatten(), nn.Linear(64, 64))",
            r"makes torch.float32 \(2, 64\) of 2 images; logits \(2, 10\) are wanted",
        ),
        (
            "loss",
            "return nn.functional.cross_entropy(logits, labels)",
            r"makes torch.float32 \(\) of 2 examples; .*\(2,\)",
        ),
        ("loss", "return 1", r"makes int of 2 examples"),
        ("penalty", "return logits.square()", r"makes torch.float32 \(2, 10\); a scalar is wanted"),
        ("schedule", "return None", r"the factor on the learning rate at step 0 of 3 is"),
        ("schedule", "return -1", r"at step 0 of 3 is -1; a finite number of at least 0"),
    ],
)
def test_what_it_returns_is_held_against_what_is_wanted(failing: Failing, method: str, line: str, said: str) -> None:
    told = failing(PLACE[method], source(**{method: line}))
    assert re.search(said, told), told
    if method != "schedule":
        assert re.search(r"my_own\.py, line \d+", told), told


@pytest.mark.parametrize("method", GOOD)
def test_what_it_raises_is_told_with_the_line(failing: Failing, method: str) -> None:
    text = source(**{method: "raise KeyError('nothing there')"})
    told = failing(PLACE[method], text)
    assert f"my_own.py, line {line_of(text, 'nothing there')}: KeyError: 'nothing there'" in told
    assert re.search(r"\n[a-z.]+ wants an? [a-z]+ ", told), told


def test_what_it_says_itself_is_said(failing: Failing) -> None:
    told = failing("model", source(build="raise ValueError('model: grey images, please')"))
    assert told.endswith("Error: model: grey images, please\n")


def test_a_method_that_cannot_be_called_as_it_is(failing: Failing) -> None:
    told = failing("few", source())
    assert "FewArguments" in told
    assert "takes 2 positional arguments but 4 were given" in told
    assert "corrupt_labels(labels (N,), keys (N,), num_classes) -> Labels" in told


def test_what_keeps_it_from_being_imported(failing: Failing) -> None:
    told = failing("model", source() + "\nimport no_such_library\n")
    assert re.search(r"my_own\.py, line \d+: ModuleNotFoundError: No module named 'no_such_library'", told)
    told = failing("model", source() + "\ndef broken(:\n")
    assert re.search(r"my_own\.py, line \d+: SyntaxError: ", told)


def test_a_datamodule_that_is_not_ready_says_what_to_do() -> None:
    datamodule = RandomLabels(Digits())
    for name in ("image_shape", "class_names", "num_classes", "timetable", "fit_ceiling"):
        with pytest.raises(AttributeError, match=r"known after setup\(\): call it first"):
            getattr(datamodule, name)
    assert not hasattr(datamodule, "colour")
    datamodule.setup()
    assert datamodule.num_classes == 10
