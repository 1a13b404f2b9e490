from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rethinkgen.report.claim_files import load_claims, read_paper

TABLE_1 = """
inception             100.0 89.05  100.0 89.31  100.0 86.03  100.0 85.75  100.0 9.78
inception_no_bn       100.0 83.00  100.0 82.00  100.0 10.12
alexnet               99.90 81.22  99.82 79.66  100.0 77.36  100.0 76.07  99.82 9.86
mlp_3x512             100.0 53.35  100.0 52.39  100.0 10.48
mlp_1x512             99.80 50.39  100.0 50.51  99.34 10.61
"""
"""Zhang et al. 2017: crop and weight decay, crop, weight decay, none, random labels; train and test each."""


def test_table_1_is_the_papers() -> None:
    claims = [claim for claim in load_claims() if claim.item == "Table 1" and claim.unit == "%" and not claim.settings]
    rows_of_it = [line.split() for line in TABLE_1.strip().splitlines()]
    expected = [(model, float(number)) for model, *numbers in rows_of_it for number in numbers]
    assert [(claim.runs["model"], claim.value) for claim in claims] == expected
    assert len(claims) == 38
    rows = [claim for claim in claims if claim.metric == "fit/accuracy"]
    assert [claim.runs["regularizer"] for claim in rows if claim.runs["model"] == "alexnet"] == [
        ["random_crop", "weight_decay"],
        ["random_crop"],
        ["weight_decay"],
        [],
        [],
    ]
    assert [claim.runs["data.corruption"] for claim in rows].count("random_labels") == 5


def test_every_item_of_the_paper_has_its_claims() -> None:
    items = {claim.item for claim in load_claims() if claim.paper.name == "zhang2017"}
    assert items == {
        "Table 1", "Table 2", "Table 3", "Table 4", "Section 2", "Section 5", "Theorem 1", "Rademacher complexity",
        "Figure 1(a)", "Figure 1(b)", "Figure 1(c)", "Figure 2(a)", "Figure 2(b)",
    }  # fmt: skip


def test_every_claim_says_why_its_rule_is_as_it_is() -> None:
    for claim in load_claims():
        assert len(claim.rule.because) > 10, claim.id
        assert claim.statement
        assert claim.value is not None or claim.published, claim.id
        assert f"+experiment={claim.paper.name}/" in claim.command


def test_memory_is_never_counted() -> None:
    remembered = [claim for claim in load_claims() if "MEM" in claim.source]
    assert remembered
    assert not any(claim.is_counted for claim in remembered)
    assert all(claim.is_counted for claim in load_claims() if "MEM" not in claim.source)


GOOD: dict[str, Any] = {
    "paper": "made_up",
    "reference": "Nobody, nowhere",
    "sources": {"S0": "a book"},
    "protocols": {"theirs": {"data": "cifar10", "steps": {"at_least": 10}}},
    "items": [
        {
            "item": "Table 9",
            "source": "[S0]",
            "certainty": "verified",
            "experiment": "made_up/table_9",
            "seeds": 3,
            "protocol": "theirs",
            "claims": [
                {
                    "id": "one",
                    "statement": "it is so",
                    "value": 5.0,
                    "metric": "test/accuracy",
                    "runs": {"model": "inception"},
                    "rule": {"kind": "within", "tolerance": 1.0, "because": "why not"},
                }
            ],
        }
    ],
}


def read(tmp_path: Path, content: Any) -> list[Any]:
    file = tmp_path / "made_up.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return read_paper(file.name, file.read_text()).claims


def test_what_claims_have_in_common_stands_with_the_item(tmp_path: Path) -> None:
    (claim,) = read(tmp_path, GOOD)
    assert (claim.id, claim.item, claim.unit, claim.seeds) == ("one", "Table 9", "%", 3)
    assert claim.command == "python train.py -m +experiment=made_up/table_9"
    assert claim.protocol == {"data": "cifar10", "steps": {"at_least": 10}}
    assert claim.trend is None


ORDER = {"kind": "order", "groups": [["a"], ["b"]], "because": "x"}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"value": "5 %"}, r"one: value='5 %': a number is needed"),
    ({"source": "Table 9 [S0][S7]"}, r"source='S7': one of S0 is needed"),
    ({"certainty": "sure"}, r"certainty='sure': one of 'verified'"),
    ({"unit": "percent"}, r"unit='percent': one of '%', 'x'"),
    ({"seeds": 0}, r"seeds=0: .*greater than 0"),
    ({"metric": "accuracy"}, r"metric='accuracy'"),
    ({"protocol": "ours"}, r"protocol='ours': there are theirs"),
    ({"vary": "model"}, r"vary='model': a list is needed"),
    ({"given": {"fit/accuracy": True}}, r"given: fit/accuracy=True: a number is needed"),
    ({"repeated_by": "sed"}, r"repeated_by='sed': one of .* Did you mean seed\?"),
    ({"rule": {"tolerance": 1, "because": "x"}}, r"rule: kind: is missing"),
    ({"statment": "x"}, r"statment: no such key; allowed are .* Did you mean statement"),
    ({"runs": {"modle": "inception"}}, r"runs: modle: no such key; allowed are data, model, .* Did you mean model"),
    ({"runs": "inception"}, r"runs='inception': key: value pairs"),
    ({"rule": {"kind": "roughly", "because": "x"}}, r"rule: kind='roughly': one of 'within'"),
    ({"rule": {"kind": "within", "because": "x"}}, r"rule: tolerance: is missing"),
    (
        {"rule": {"kind": "within", "tolerance": "1", "because": "x"}},
        r"rule: tolerance='1': a number is needed",
    ),
    ({"rule": {"kind": "within", "tolerance": 1}}, r"rule: because: is missing"),
    ({"rule": {"kind": "within", "tolerance": 1, "slack": 2, "because": "x"}}, r"slack: no such key"),
    ({"rule": {"kind": "rising", "slack": 1, "rise": 1, "because": "x"}}, r"rising compares settings"),
    ({"rule": {"kind": "difference", "low": 1, "high": 2, "because": "x"}}, r"settings: difference needs two"),
    ({"rule": ORDER, "settings": {"a": {}, "c": {}}}, r"groups and settings name different things: b, c"),
    ({"settings": {"a": {}, "b": {}}}, r"within judges a single setting"),
    ({"value": None}, r"kind='within' compares with the published value"),
    ({"across": {"key": "level", "atleast": 3}}, r"within judges|atleast: no such key"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_mistake_is_named_with_file_claim_and_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = copy.deepcopy(GOOD)
    content["items"][0]["claims"][0] |= change
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, content)
    assert str(error.value).startswith("made_up.yaml, claim one")


def test_what_is_missing_or_twice_is_named(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["items"][0]["claims"] *= 2
    with pytest.raises(ValueError, match=r"made_up.yaml, claim one: id='one' is used more than once"):
        read(tmp_path, content)
    content = copy.deepcopy(GOOD)
    del content["items"][0]["source"]
    with pytest.raises(ValueError, match=r"claim one: source: is missing"):
        read(tmp_path, content)
    with pytest.raises(ValueError, match=r"made_up.yaml: paper: is missing"):
        read(tmp_path, {"items": []})
    with pytest.raises(ValueError, match=r"made_up.yaml: not YAML"):
        read(tmp_path, "a: [")
    content = copy.deepcopy(GOOD)
    content["protocols"]["theirs"]["steps"] = {"from": 5}
    with pytest.raises(ValueError, match=r"protocol: steps=\{'from': 5\}: a value, a list, or one of at_least"):
        read(tmp_path, content)
    content["protocols"]["theirs"]["steps"] = {"at_least": "5"}
    with pytest.raises(ValueError, match=r"protocol: steps=\{'at_least': '5'\}: .*one of at_least"):
        read(tmp_path, content)
    content["protocols"]["theirs"] = {"leaves_open": 3}
    with pytest.raises(ValueError, match=r"made_up.yaml: protocols: theirs: leaves_open=3: a list is needed"):
        read(tmp_path, content)
    with pytest.raises(ValueError, match=r"made_up.yaml: items: claims='x': key: value pairs are needed"):
        read(tmp_path, GOOD | {"items": [{"claims": ["x"]}]})
