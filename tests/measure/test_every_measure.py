"""What every measure must do: leave the network as it was, and say the same again, whatever it may hold in memory."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml
from subjects import NETWORKS, network_of, subject_of
from torch import nn

from rethinkgen.configs import folder
from rethinkgen.measure.fit import weights_digest
from rethinkgen.measure.subject import Findings

FRAME = ("_target_", "protocol", "other")
"""What stands in a measure's YAML and is not handed to its function."""
FILES = sorted((folder() / "measure").glob("*.yaml"))
NEED_A_TRAINING = {"loss_sensitivity"}
"""Their own tests do as much, on a training."""
CASES = [(file.stem, network) for file in FILES if file.stem not in NEED_A_TRAINING for network in NETWORKS]


def declared(name: str) -> tuple[Callable[..., Findings], dict[str, Any]]:
    """Return a measure's function, and its parameters as its YAML states them."""
    node = yaml.safe_load((folder() / "measure" / f"{name}.yaml").read_text(encoding="utf-8"))[name]
    module, _, function = node["_target_"].rpartition(".")
    parameters = {key: value for key, value in node.items() if key not in FRAME}
    return getattr(importlib.import_module(module), function), parameters


def flat(findings: Findings) -> dict[str, Any]:
    tables = {f"{name}/{key}": column for name, table in findings.tables.items() for key, column in table.items()}
    return {**findings.numbers, **{key: torch.as_tensor(c) if is_number(c) else list(c) for key, c in tables.items()}}


def is_number(column: Any) -> bool:
    return isinstance(column, torch.Tensor) or not isinstance(column[0], str)


def assert_close(one: Findings, other: Findings, *, tolerance: float) -> None:
    a, b = flat(one), flat(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, list) or value is None:
            assert value == b[name], name
        else:
            expected, found = torch.as_tensor(value).double(), torch.as_tensor(b[name]).double()
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def everything_of(network: nn.Module) -> tuple[Any, ...]:
    modules = [
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()
    ]
    parameters = [(value.requires_grad, value.grad) for value in network.parameters()]
    momenta = [getattr(module, "momentum", None) for module in network.modules()]
    return (
        weights_digest(network),
        modules,
        parameters,
        momenta,
        [getattr(m, "inplace", None) for m in network.modules()],
    )


@pytest.mark.parametrize(("name", "network"), CASES)
def test_the_network_is_left_as_it_was_and_the_same_is_said_again(name: str, network: str) -> None:
    measure, parameters = declared(name)
    subject = subject_of(network, name=name)
    before = everything_of(subject.network), torch.get_rng_state(), torch.is_grad_enabled()
    inputs = subject.split("train").inputs.clone()
    first = measure(subject, **parameters)
    after = everything_of(subject.network), torch.get_rng_state(), torch.is_grad_enabled()
    assert after[0] == before[0]
    assert torch.equal(after[1], before[1])
    assert after[2] == before[2]
    assert torch.equal(subject.split("train").inputs, inputs)
    assert not subject.split("train").inputs.requires_grad
    torch.rand(3)
    with torch.no_grad():
        assert_close(measure(subject, **parameters), first, tolerance=0)
    assert first.numbers
    for table in first.tables.values():
        assert len({len(column) for column in table.values()}) == 1


@pytest.mark.parametrize(("name", "network"), CASES)
def test_the_numbers_do_not_depend_on_what_may_be_held(name: str, network: str) -> None:
    measure, parameters = declared(name)
    one = measure(subject_of(network, name=name), **parameters)
    # Of these networks an example takes some 5 kB.
    assert_close(measure(subject_of(network, name=name, memory_mb=0.05), **parameters), one, tolerance=2e-5)


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_a_yaml_states_every_parameter_with_its_default(name: str) -> None:
    measure, parameters = declared(name)
    subject, *others = inspect.signature(measure).parameters.values()
    assert (subject.name, measure.__name__) == ("subject", name)
    defaults = {one.name: one.default for one in others}
    assert {key: [*value] if isinstance(value, tuple) else value for key, value in defaults.items()} == parameters


def test_a_mode_that_was_training_is_training_again() -> None:
    network = network_of("convolutional").train()
    measure, parameters = declared("gradient_norms")
    before = everything_of(network)
    measure(subject_of(network), **parameters)
    assert everything_of(network) == before
    assert network.training
