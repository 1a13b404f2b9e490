"""Which examples are looked at."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from subjects import split_of

from rethinkgen.data.module import Split
from rethinkgen.measure.examples import examples


def chosen(split: Split, num_examples: int | None, of: str = "all") -> list[int]:
    return examples(split, num_examples, of, memory_mb=10).index.tolist()


def test_each_original_class_has_its_share_and_fewer_are_a_part_of_more() -> None:
    split = split_of(60, 1, share_wrong=0.5)
    some = examples(split, 12, "all", memory_mb=10)
    assert Counter(some.original_labels.tolist()) == {0: 4, 1: 4, 2: 4}
    assert {*chosen(split, 7)} < {*chosen(split, 12)} < {*chosen(split, 31)}
    # In the order of the split, all of an example's parts together.
    places = [split.index.tolist().index(index) for index in some.index.tolist()]
    assert places == sorted(places)
    for field in dataclasses.fields(Split):
        assert torch.equal(getattr(some, field.name), getattr(split, field.name)[places])


def test_runs_of_other_labels_and_orders_look_at_the_same() -> None:
    split = split_of(60, 1)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    other = Split(**{field.name: getattr(split, field.name)[order] for field in dataclasses.fields(Split)})
    other = dataclasses.replace(other, labels=torch.zeros_like(other.labels), is_corrupted=other.original_labels != 0)
    assert {*chosen(other, 12)} == {*chosen(split, 12)}


def test_more_than_there_are_are_all() -> None:
    split = split_of(9, 1)
    assert examples(split, 9, "all", memory_mb=10) is split
    assert examples(split, 10, "all", memory_mb=10) is split
    assert examples(split, None, "all", memory_mb=10) is split


def test_wrong_and_right_labels_apart() -> None:
    split = split_of(60, 1, share_wrong=0.3)
    wrong = split.index[split.is_corrupted].tolist()
    assert chosen(split, None, "corrupted") == wrong
    assert sorted(wrong + chosen(split, None, "clean")) == list(range(60))
    assert {*chosen(split, 5, "corrupted")} < {*wrong}


def test_what_is_not_there_is_named() -> None:
    split = split_of(9, 1)
    with pytest.raises(ValueError, match=r"of=corrupted: no label of these examples was changed\. Take of=all"):
        chosen(split, 3, "corrupted")
    with pytest.raises(ValueError, match=r"of='wrong': one of all, clean, corrupted is needed"):
        chosen(split, 3, "wrong")
    with pytest.raises(ValueError, match=r"num_examples=0: a whole number of at least 1"):
        chosen(split, 0)
