"""Counts against a loop over examples."""

from __future__ import annotations

from collections import Counter

import pytest
from subjects import subject_of

from rethinkgen.measure.confusion import confusion


def test_counts_and_shares_are_those_of_a_loop() -> None:
    subject = subject_of("mlp", size=40)
    findings = confusion(subject)
    counts: Counter[tuple[str, int, int, int]] = Counter()
    for name, split in subject.splits.items():
        predicted = subject.network(split.inputs).argmax(1).tolist()
        for true, given, said in zip(split.original_labels.tolist(), split.labels.tolist(), predicted, strict=True):
            counts[name, true, given, said] += 1
    table = {key: list(column) for key, column in findings.tables["counts"].items()}
    rows = zip(table["split"], *([int(v) for v in table[key]] for key in ("true", "given", "predicted")), strict=True)
    assert dict(zip(rows, [int(count) for count in table["count"]], strict=True)) == counts

    wrong = {key: count for key, count in counts.items() if key[0] == "train" and key[1] != key[2]}
    memorised = [0.0, 0.0, 0.0]
    for true in range(3):
        of_class = {key: count for key, count in wrong.items() if key[1] == true}
        memorised[true] = sum(n for key, n in of_class.items() if key[3] == key[2]) / sum(of_class.values())
    total = sum(wrong.values())
    assert findings.numbers["train/memorised"] == sum(n for k, n in wrong.items() if k[3] == k[2]) / total
    assert findings.numbers["train/corrected"] == sum(n for k, n in wrong.items() if k[3] == k[1]) / total
    assert findings.numbers["train/neither"] == sum(n for k, n in wrong.items() if k[3] not in (k[1], k[2])) / total
    assert findings.numbers["train/memorised_worst_class"] == min(memorised)
    assert findings.numbers["train/memorised_best_class"] == max(memorised)
    assert min(memorised) < max(memorised)
    shares = [
        sum(n for k, n in counts.items() if k[0] == "test" and k[1] == k[3] == true)
        / sum(n for k, n in counts.items() if k[0] == "test" and k[1] == true)
        for true in range(3)
    ]
    assert findings.numbers["test/balanced_accuracy"] == pytest.approx(sum(shares) / 3)


def test_without_wrong_labels_nothing_is_said_of_them() -> None:
    numbers = confusion(subject_of("mlp", share_wrong=0.0)).numbers
    assert set(numbers) == {f"{split}/balanced_accuracy" for split in ("train", "validation", "test")}
