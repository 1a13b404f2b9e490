"""What a user's number must be, said once: each check raises a ``ValueError`` that names the config key."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any


def check_between(key: str, value: Any, low: float, high: float, *, below: bool = False, or_else: str = "") -> float:
    """Return ``value`` if it is a number from ``low`` to ``high``, itself left out if ``below``.

    Booleans, strings and NaN are no numbers here: ``true`` in a YAML file is a slip, not a 1. ``or_else`` names the
    words allowed besides, here and below.

    Raises:
        ValueError: it is not; the message names ``key``, the value and what is allowed.
    """
    if _is_real(value) and low <= value <= high and not (below and value == high):
        return float(value)
    end = f"below {high:g}" if below else f"{high:g}"
    raise ValueError(f"{key}={value!r}: a number from {low:g} to {end}{_besides(or_else)} is needed.")


def check_probability(key: str, value: Any, *, or_else: str = "") -> float:
    """Return ``value`` if it is a probability, strength or share: a number from 0 to 1, both included.

    Raises:
        ValueError: it is not.
    """
    return check_between(key, value, 0, 1, or_else=or_else)


def check_whole(key: str, value: Any, least: int, *, most: int | None = None, or_else: str = "") -> int:
    """Return ``value`` if it is a whole number of at least ``least``, and at most ``most`` where that is given.

    Raises:
        ValueError: it is not.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if is_whole and least <= int(value) and (most is None or int(value) <= most):
        return int(value)
    allowed = f"of at least {least}" if most is None else f"of at least {least} and at most {most}"
    raise ValueError(f"{key}={value!r}: a whole number {allowed}{_besides(or_else)} is needed.")


def check_positive(key: str, value: Any, *, most: float | None = None, or_else: str = "") -> float:
    """Return ``value`` if it is a finite number above 0, and at most ``most`` where that is given.

    Raises:
        ValueError: it is not.
    """
    if _is_real(value) and 0 < value < float("inf") and (most is None or value <= most):
        return float(value)
    allowed = "above 0" if most is None else f"above 0 and at most {most:g}"
    raise ValueError(f"{key}={value!r}: a number {allowed}{_besides(or_else)} is needed.")


def check_switch(key: str, value: Any, *, or_else: str = "") -> bool:
    """Return ``value`` if it is ``True`` or ``False``.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool):
        return value
    raise ValueError(f"{key}={value!r}: true or false{_besides(or_else)} is needed.")


def check_one_of(key: str, value: Any, allowed: Sequence[str], *, or_else: str = "") -> str:
    """Return ``value`` if it is one of the words ``allowed``.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, str) and value in allowed:
        return value
    raise ValueError(f"{key}={value!r}: one of {', '.join(allowed)}{_besides(or_else)} is needed.")


def check_text(key: str, value: Any, *, or_else: str = "") -> str:
    """Return ``value`` if it is a text that is not empty.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"{key}={value!r}: a text{_besides(or_else)} is needed.")


def check_groups(key: str, value: Any, *, or_else: str = "") -> None:
    """Refuse what does not name at least two groups, each with a list of names.

    Raises:
        ValueError: it does not.
    """
    if isinstance(value, Mapping) and len(value) > 1 and all(_is_list_of_some(names) for names in value.values()):
        return
    raise ValueError(
        f"{key}={value!r}: at least two groups{_besides(or_else)} are needed, each with a list of classes, such as "
        "{animal: [cat, dog], vehicle: [ship]}."
    )


def check_hidden_layers(width: Any, depth: Any, batch_norm: Any = False, initialization: Any = "") -> list[int]:
    """Return the units of each hidden layer of a multi-layer perceptron, of one ``width`` for all or a list of them.

    Raises:
        ValueError: the options of ``model`` are no such network together.
    """
    num_hidden = check_whole("model.depth", depth, 0, most=10**4)
    if num_hidden == 0:
        if width is not None:
            raise ValueError(
                f"model.depth=0 model.width={width}: a linear model has no hidden units; model=linear is it."
            )
        if batch_norm:
            raise ValueError(
                "model.batch_norm=true model.depth=0: a linear model has no hidden layer to normalise; false is needed."
            )
        return []
    if initialization == "zeros":
        raise ValueError(
            f"model.initialization=zeros model.depth={num_hidden}: hidden units that start at zero learn nothing; this "
            "is for a linear model, model=linear."
        )
    if not isinstance(width, Sequence) or isinstance(width, str):
        return num_hidden * [check_whole("model.width", width, 1, or_else="a list of them")]
    widths = [check_whole("model.width", each, 1) for each in width]
    if len(widths) != num_hidden:
        raise ValueError(
            f"model.width={widths} model.depth={num_hidden}: as many hidden layers as widths are needed. Set "
            f"model.depth={len(widths)}."
        )
    if len(set(widths)) == 1:
        raise ValueError(f"model.width={widths}: write model.width={widths[0]}, that the run has one name.")
    return widths


RESNET_DEPTHS = (18, 34, 50, 101, 152)
VGG_DEPTHS = (11, 13, 16, 19)


def check_is_one_number_of(key: str, value: Any, allowed: Sequence[int], or_else: str = "") -> int:
    """Return ``value`` if it is one of the whole numbers ``allowed``.

    Raises:
        ValueError: it is not.
    """
    if type(value) is int and value in allowed:
        return value
    raise ValueError(f"{key}={value!r}: one of {', '.join(map(str, allowed))} is needed.")


def check_depth_of_wide_resnet(key: str, value: Any, *, or_else: str = "") -> int:
    """Return ``value`` if it is a depth of Zagoruyko and Komodakis 2016: 6n + 4, for n blocks in each of three stages.

    Raises:
        ValueError: it is not.
    """
    depth = check_whole(key, value, 10, most=10**4)
    if depth % 6 != 4:
        raise ValueError(f"{key}={depth}: 6n + 4 is needed, n blocks in each of three stages: 10, 16, 22, 28, ...")
    return depth


def _is_list_of_some(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0


def _besides(or_else: str) -> str:
    return f", or {or_else}," if or_else else ""


def _is_real(value: Any) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool) or value != value:
        return False
    # A whole number that no float can hold is as good as infinite.
    return not isinstance(value, Integral) or abs(int(value)) <= sys.float_info.max
