"""The class that the network said most often of an example against its label, against counts of all classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from test_presented import NUM_TRAIN, PowerCut, Witness, fit

from rethinkgen.measure.difficulty import answers
from rethinkgen.model.mlp import MLP
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.train.histories import Presented
from rethinkgen.train.other_class import OtherClass


def test_a_majority_of_what_was_said_against_the_label_is_found_in_any_order() -> None:
    torch.manual_seed(0)
    history, labels = OtherClass(), torch.randint(5, (200,))
    said = torch.randint(5, (12, 200))
    said[:, :100] = torch.where(torch.rand(12, 100) < 0.6, (labels[:100] + 1) % 5, said[:, :100])
    for step, classes in enumerate(said, 1):
        order = torch.randperm(200)
        logits = torch.eye(5)[classes[order]]
        history.update(step, Presented(order, [200], answers(logits, labels[order]), 200))
    found = history.examples()
    num_sure = 0
    for example in range(200):
        against = Counter(c for c in said[:, example].tolist() if c != labels[example])
        best, count = against.most_common(1)[0]
        if 2 * count > against.total():
            num_sure += 1
            assert found["presented_other_class"][example] == best
        named = int(found["presented_other_class"][example])
        assert 1 <= int(found["presented_times_other"][example]) <= against[named]
    assert num_sure > 100


def test_what_is_always_right_has_none() -> None:
    history = OtherClass()
    history.update(1, Presented(torch.tensor([1]), [1], answers(torch.eye(3)[2:], torch.tensor([2])), 2))
    assert history.examples()["presented_other_class"].tolist() == [-1, -1]
    history.miss()
    assert history.examples() == {}


def test_of_a_training_it_is_what_its_batches_said() -> None:
    witness = Witness()
    columns = fit(Evaluation(every=0.5), MLP(width=16, learning_rate=0.1, mix=witness)).examples()
    for example in range(NUM_TRAIN):
        against = [int(z.argmax()) for _, i, z, y in witness.said if i == example and int(z.argmax()) != y]
        assert (columns["presented_other_class"][example] >= 0) == bool(against)
        if len(set(against)) == 1:
            assert int(columns["presented_other_class"][example]) == against[0]
            assert int(columns["presented_times_other"][example]) == len(against)


def test_a_resumed_run_has_the_same(tmp_path: Path) -> None:
    undisturbed = fit(Evaluation(every=0.5)).other_class
    with pytest.raises(KeyError, match="power cut"):
        fit(Evaluation(every=0.5), None, tmp_path, PowerCut())
    assert torch.equal(fit(Evaluation(every=0.5), None, tmp_path).other_class.votes, undisturbed.votes)
