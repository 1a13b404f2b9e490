"""Measures as a config asks for them. Light: nothing that it names is imported here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rethinkgen.data.timetable import check_moment
from rethinkgen.run.build import PLACES
from rethinkgen.run.identity import class_name
from rethinkgen.run.measured import measure_id

if TYPE_CHECKING:
    from rethinkgen.measure.subject import At

OF_THE_FRAME = ("_target_", "protocol", "other")
"""Keys of a measure that its function is not given."""


@dataclass(frozen=True)
class Measure:
    """A measure as the config asks for it."""

    name: str
    target: str
    protocol: int
    parameters: dict[str, Any]
    wants_other: bool = False
    """Whether it may use a second run."""
    other: str | None = None
    """Which one, as a selection among the runs; ``None``: none."""

    def key(self, other_id: str | None) -> str:
        """Return what the measure of a run is known by, given the id of the second run."""
        known_by = measure_id(class_name(self.target), self.protocol, self.parameters, other_id)
        return f"{self.name}-{known_by}"


def measures_in(node: Any) -> list[Measure]:
    """Read the node ``measure`` of a resolved config; nothing is imported.

    Raises:
        ValueError: what stands there is no measure.
    """
    if not isinstance(node, Mapping):
        raise ValueError(f"measure={node!r}: a list of choices is needed, such as 'measure=[fit,margins]'.")
    return [_measure(str(name), told) for name, told in node.items()]


def _measure(name: str, told: Any) -> Measure:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,79}", name):
        raise ValueError(f"measure.{name}: a name of letters, digits and '_' is needed.")
    if not isinstance(told, Mapping) or not isinstance(told.get("_target_"), str):
        raise ValueError(f"measure.{name}: {PLACES['measure'].wants} is needed as its _target_.")
    protocol = told.get("protocol", 1)
    if not isinstance(protocol, int) or isinstance(protocol, bool) or protocol < 1:
        raise ValueError(f"measure.{name}.protocol={protocol!r}: a whole number of at least 1 is needed.")
    parameters = {str(key): value for key, value in told.items() if key not in OF_THE_FRAME}
    return Measure(name, told["_target_"], protocol, parameters, "other" in told, told.get("other"))


@dataclass(frozen=True)
class Request:
    """What is asked of each of several runs."""

    measures: Sequence[Measure]
    at: Sequence[At]
    memory_mb: float = 1024.0
    accelerator: str = "auto"
    inexact: bool = False
    again: bool = False
    """Also what is there already."""

    def to_json(self) -> dict[str, Any]:
        """Return the same as JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Request:
        """Undo ``to_json``."""
        return cls(**{**told, "measures": [Measure(**each) for each in told["measures"]]})


def moments_in(at: Any) -> list[At]:
    """Return the moments that the key ``at`` names.

    Raises:
        ValueError: one of them is none, or there is none.
    """
    moments = at if isinstance(at, list) else [at]
    return [check_moment("at", each) for each in moments or [None]]


def asked_of_a_run(config: Mapping[str, Any]) -> Request | None:
    """Return what a run's own config asks to be measured as the run ends, nothing where it asks for nothing.

    What needs a second run is not among it: that may not be there yet.

    Raises:
        ValueError: a measure or a moment is none.
    """
    measures = measures_in(config.get("measure") or {})
    at = moments_in(config.get("at", "end"))
    own = [each for each in measures if each.other is None]
    accelerator = str(config.get("trainer", {}).get("accelerator", "auto"))
    is_inexact = config.get("replay") == "inexact"
    return Request(own, at, accelerator=accelerator, inexact=is_inexact) if own else None
