"""How often examples are right, counted by hand; and coins that are all alike."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from subjects import subject_of
from torch import Tensor

from rethinkgen.measure.easy_examples import easy_examples
from rethinkgen.measure.subject import Draw, Subject

R = 8


def column(subject: Subject, table: str, name: str, **keywords: int) -> Tensor:
    return torch.as_tensor(easy_examples(subject, num_draws=R, **keywords).tables[table][name]).double()


def test_probabilities_are_counted() -> None:
    subject = subject_of("mlp", name="easy_examples")
    asked: list[tuple[Sequence[Draw], float]] = []
    train = subject.split("train")
    said = torch.stack([(train.labels + torch.arange(len(train)) * r) % 3 for r in range(R)])
    said[:, 0], said[:, 1] = train.labels[0], (train.labels[1] + 1) % 3  # always right, never right

    def trainings(draws: Sequence[Draw], epochs: float, _: Sequence[str]) -> dict[str, Tensor]:
        asked.append((draws, epochs))
        return {"train": said}

    counting = Subject(subject.network, subject.splits, seed=4, trainings=trainings)  # type: ignore[arg-type]
    findings = easy_examples(counting, num_draws=R, epochs=0.5)
    counts = [sum(int(said[r, i] == train.labels[i]) for r in range(R)) / R for i in range(len(train))]
    table = findings.tables["examples"]
    assert torch.as_tensor(table["probability"]).tolist() == counts
    assert torch.equal(torch.as_tensor(table["index"]), train.index)
    assert torch.equal(torch.as_tensor(table["is_corrupted"]), train.is_corrupted)
    n, mean = len(counts), sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / (n - 1)
    wrong = train.is_corrupted.tolist()
    of_wrong = [count for count, is_wrong in zip(counts, wrong, strict=True) if is_wrong]
    of_right = [count for count, is_wrong in zip(counts, wrong, strict=True) if not is_wrong]
    assert findings.numbers == {
        "mean": pytest.approx(mean),
        "dispersion": pytest.approx(variance / (mean * (1 - mean) / R)),
        "share_always": pytest.approx(counts.count(1) / n),
        "share_never": pytest.approx(counts.count(0) / n),
        "mean_clean": pytest.approx(sum(of_right) / len(of_right)),
        "mean_corrupted": pytest.approx(sum(of_wrong) / len(of_wrong)),
    }
    assert counts.count(1) > 0 < counts.count(0)
    assert torch.as_tensor(findings.tables["sorted"]["error"]).tolist() == sorted(1 - count for count in counts)
    ((draws, epochs),) = asked
    assert epochs == 0.5
    assert len({draw.seed for draw in draws}) == R
    assert all(draw.positions is None for draw in draws)


def test_of_examples_that_are_alike_the_dispersion_is_one_and_the_binomial_is_the_same() -> None:
    subject = subject_of("mlp", size=3000, name="easy_examples")
    found = easy_examples(subject, num_draws=30, num_examples=None)
    assert found.numbers["dispersion"] == pytest.approx(1, abs=0.1)  # four deviations
    error, alike = (torch.as_tensor(found.tables["sorted"][name]) for name in ("error", "binomial"))
    assert float((error - alike).abs().mean()) < 0.01
    assert float(alike.mean()) == pytest.approx(2 / 3, abs=0.01)
    assert torch.equal(alike, alike.sort().values)


def test_draws_are_of_the_runs_seed_and_of_no_step_and_fewer_are_the_first_of_more() -> None:
    def seeds(seed: int, step: int, num_draws: int) -> list[int]:
        asked: list[int] = []

        def trainings(draws: Sequence[Draw], *_: object) -> dict[str, Tensor]:
            asked.extend(draw.seed for draw in draws)
            return {"train": torch.zeros(num_draws, len(subject.split("train")), dtype=torch.int64)}

        subject = subject_of("mlp", seed=seed, step=step, trainings=trainings)
        easy_examples(subject, num_draws=num_draws)
        return asked

    assert seeds(0, 3, 6) == seeds(0, 9, 6) == seeds(0, 9, 8)[:6]
    assert seeds(0, 3, 6) != seeds(1, 3, 6)


def test_fewer_examples_are_a_part_and_nonsense_is_named() -> None:
    subject = subject_of("mlp", name="easy_examples")
    whole = dict(zip(*(column(subject, "examples", name).tolist() for name in ("index", "probability")), strict=True))
    part = dict(
        zip(
            *(column(subject, "examples", name, num_examples=6).tolist() for name in ("index", "probability")),
            strict=True,
        )
    )
    assert len(part) == 6
    assert part.items() <= whole.items()
    with pytest.raises(ValueError, match=r"num_draws=1: a whole number of at least 2"):
        easy_examples(subject, num_draws=1)
    with pytest.raises(ValueError, match=r"epochs=0: a number above 0"):
        easy_examples(subject, epochs=0)
