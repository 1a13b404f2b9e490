"""Properties of ids, whatever the config: what is neutral, moved or reordered is the same run; all else another."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import assume, given
from hypothesis import strategies as st

from conftest import ROOT
from rethinkgen.run import description
from rethinkgen.run.identity import Declaration, declaration, flatten, identifying, place, rules, run_id

RUNS = (
    ("model=inception", "data=digits"),
    ("model=mlp_1x512", "data=digits", "regularizer=[dropout,flip,weight_decay]", "seed=3", "gradient_clip=2.0"),
    ("model=alexnet", "data=digits", "data.corruption=partial_labels", "data.validation=0.1", "max_epochs=4"),
    ("model=mlp", "data=digits", "optimizer=adam", "data.corruption=gaussian_blend", "regularizer=[mixup]"),
    ("model=kernel_gaussian", "data=digits", "data.corruption=random_labels", "data.seed=5"),
)
DATA = "0123456789abcdef"


@functools.cache
def composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf")):
        root = compose("train", overrides=list(overrides), return_hydra_config=False)
    GlobalHydra.instance().clear()
    names = {"data": "digits", "data.corruption": "none", "model": "inception"}
    return description.describe(root, names, list(overrides), "runs").config


configs = st.sampled_from(RUNS).map(lambda overrides: copy.deepcopy(composed(overrides)))


def is_told_otherwise(key: str) -> bool:
    """Classes, of which the name counts; a budget in steps, which one in epochs replaces."""
    return key.rpartition(".")[2] in ("_target_", "_partial_", "declares") or key in ("max_steps", "max_epochs")


def counts(key: str, declared: Declaration) -> bool:
    """Whether another value of a dotted key of the resolved config is another run."""
    is_inert = any(f"{key}.".startswith(f"{node}.") for node in rules()["never"])
    return not is_inert and not declared.fixes(key)


def neutral_keys(config: dict[str, Any]) -> list[str]:
    """Keys of a config that stand at the value that leaves a run as it is."""
    told = flatten(identifying(config))
    return [key for key in flatten(rules()["neutral"]) if key not in told and place(config, key)[0]]


@given(configs, st.data())
def test_a_key_at_its_neutral_value_may_be_absent(config: dict[str, Any], data: st.DataObject) -> None:
    expected = run_id(config, DATA)
    # What another key of neutral.yaml refers to is said by that one: it is left where it is.
    referred = {str(value)[2:-1] for value in flatten(rules()["neutral"]).values() if str(value).startswith("${")}
    removable = [key for key in neutral_keys(config) if key not in referred and "corruption" not in key]
    removed = data.draw(st.lists(st.sampled_from(removable), unique=True, min_size=1))
    for key in removed:
        node, name = place(config, key)
        node.pop(name, None)
    assert run_id(config, DATA) == expected


def reordered(node: Any, order: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {key: reordered(node[key], order) for key in sorted(node, key=lambda key: order.random())}


@given(configs, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_count(config: dict[str, Any], order: Any) -> None:
    assert run_id(reordered(config, order), DATA) == run_id(config, DATA)


@given(
    configs,
    st.sampled_from(["model", "loss", "data.source", "data.corruption"]),
    st.from_regex(r"[a-z]{1,8}", fullmatch=True),
)
def test_a_class_of_ours_may_move_and_a_foreign_one_is_another(config: dict[str, Any], key: str, module: str) -> None:
    node, name = place(config, f"{key}._target_")
    assume(name in node)
    expected, ours = run_id(config, DATA), node[name]
    node[name] = f"rethinkgen.{module}.{ours.rpartition('.')[2]}"
    assert run_id(config, DATA) == expected
    node[name] = f"{module}.{ours.rpartition('.')[2]}"
    if not declaration(config).fixes(key):
        assert run_id(config, DATA) != expected


# Nothing has one of these as its neutral value.
values = st.one_of(st.integers(1000, 10**9), st.floats(1e-30, 1e-20), st.text("xyz", min_size=5))


@given(configs, values, st.data())
def test_another_value_is_another_run_just_where_it_can_change_a_result(
    config: dict[str, Any], value: Any, data: st.DataObject
) -> None:
    expected, declared = run_id(config, DATA), declaration(config)
    key = data.draw(st.sampled_from(sorted(key for key in flatten(config) if not is_told_otherwise(key))))
    node, name = place(config, key)
    node[name] = value
    assert (run_id(config, DATA) != expected) == counts(key, declared), key


@pytest.mark.parametrize("overrides", RUNS)
def test_the_data_count_by_their_fingerprint(overrides: tuple[str, ...]) -> None:
    config = composed(overrides)
    assert len({run_id(config, DATA), run_id(config, DATA[::-1]), run_id(config, None)}) == 3
    elsewhere = {**config, "results_dir": str(Path("elsewhere")), "sweep": "another"}
    assert run_id(elsewhere, DATA) == run_id(config, DATA)
