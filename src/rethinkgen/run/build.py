"""The one place where a ``_target_`` of the config becomes an object.

A config is data, possibly somebody else's. What it may name is narrow: for each place of the config the classes and
functions of the kind that is wanted there, from our own modules for it, from a few named others, and from packages that
the command itself opens (``rethinkgen.run.own_code``). Ours are found by their name alone, whatever module a config of
some years ago says they are in. Nothing is imported before the name is known to be allowed, and nothing is called that
is not of the kind.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rethinkgen.blame import blamed
from rethinkgen.run import own_code

# Of a run's identity, or for what is looked at without torch: by ``rethinkgen.run.identity`` and by a sweep's pool.
NOT_PASSED_ON = ("protocol", "closed_form", "declares", "runs_alone")
SPECIAL = ("_target_", "_partial_")
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Place:
    """What one place of the config accepts."""

    wants: str
    """In words."""
    fits: Callable[[Any], bool]
    """Whether a class or function is of the kind."""
    ours: tuple[str, ...] = ()
    """Modules of ours, or packages with all their modules."""
    others: tuple[str, ...] = ()
    """``torch.optim.*``: what that module exports and is of the kind; without a star one function or class."""
    is_partial: bool | None = False
    """Whether some arguments are given later, by who calls it; ``None``: as the config's ``_partial_`` says."""
    parts: Place | None = None
    """What its arguments may name; ``None``: the same."""
    used: str = ""
    """How it is used, for whoever writes one."""

    @property
    def asks(self) -> str:
        """All that it wants of one's own code."""
        return f"{self.wants}, with {self.used}" if self.used else self.wants


def _subclass_of(*names: str) -> Callable[[Any], bool]:
    """Return a test for classes of which an object can be made; these kinds are imported when it is asked."""

    def fits(found: Any) -> bool:
        kinds = tuple(map(_imported, names))
        return inspect.isclass(found) and issubclass(found, kinds) and not inspect.isabstract(found)

    return fits


def _is_source(found: Any) -> bool:
    methods = ("prepare", "load", "fingerprint")
    is_protocol = getattr(found, "_is_protocol", False)
    return inspect.isclass(found) and not is_protocol and all(callable(getattr(found, name, None)) for name in methods)


def _is_schedule(found: Any) -> bool:
    if not inspect.isfunction(found):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in kinds for parameter in inspect.signature(found).parameters.values()) >= 2


def _is_loss(found: Any) -> bool:
    is_protocol = getattr(found, "_is_protocol", False)
    return inspect.isclass(found) and not is_protocol and any("__call__" in vars(kind) for kind in found.__mro__)


def _is_measure(found: Any) -> bool:
    return inspect.isfunction(found) and next(iter(inspect.signature(found).parameters), "") == "subject"


def _is_part_of_a_step(found: Any) -> bool:
    from rethinkgen.train.classifier import num_call_arguments

    return inspect.isclass(found) and num_call_arguments(found) in (2, 3)


PLACES = {
    "data.source": Place(
        "a source of images (a class with prepare, load and fingerprint)",
        _is_source,
        used="prepare() -> None, load() -> Images, fingerprint() -> str or None",
        ours=("rethinkgen.data.source", "rethinkgen.data.streamed_source", "rethinkgen.data.any_images"),
    ),
    "data.corruption": Place(
        "a corruption (a subclass of CorruptedImages)",
        _subclass_of("rethinkgen.data.module.CorruptedImages"),
        used="corrupt_labels(labels (N,), keys (N,), num_classes) -> Labels, or pixel_pattern(split, keys (n,)) -> "
        "tensors (n, ...) and corrupt_pixels(images (n, C, H, W), pattern) -> images",
        ours=("rethinkgen.data.corruption",),
    ),
    "model": Place(
        "a network (a subclass of Classifier)",
        _subclass_of("rethinkgen.train.classifier.Classifier"),
        used="build(image_shape, num_classes) -> a module that takes images (N, C, H, W) and returns logits "
        "(N, num_classes)",
        ours=("rethinkgen.model",),
    ),
    "loss": Place(
        "a loss (a class whose objects take logits, labels and indices)",
        _is_loss,
        used="__call__(logits (n, C), labels (n,), index (n,)) -> float losses (n,)",
        ours=("rethinkgen.train.loss", "rethinkgen.train.loss_correction", "rethinkgen.train.robust_loss"),
    ),
    "regularizer": Place(
        "a regularizer (a class whose objects take network, logits and labels, a penalty, or batch and network, a mix)",
        _is_part_of_a_step,
        used="__call__(network, logits (n, C), labels (n,)) -> scalar, or __call__(batch, network) -> batch",
        ours=("rethinkgen.train.regularizer",),
    ),
    "optimizer": Place(
        "an optimizer (a subclass of torch.optim.Optimizer)",
        _subclass_of("torch.optim.Optimizer"),
        ours=("rethinkgen.train.optimizer",),
        others=("torch.optim.*",),
        is_partial=True,
    ),
    "schedule": Place(
        "a schedule (a function of the step and the number of steps)",
        _is_schedule,
        used="(step, total_steps) or (step, total_steps, epochs) -> factor on the learning rate",
        ours=("rethinkgen.train.schedule",),
        is_partial=True,
    ),
    "measure": Place(
        "a measure (a function whose first parameter is called subject)",
        _is_measure,
        used="(subject, parameters by their names) -> Findings(numbers, tables)",
        ours=("rethinkgen.measure",),
        is_partial=True,
    ),
    "logger": Place(
        "one of Lightning's loggers",
        _subclass_of("pytorch_lightning.loggers.Logger"),
        ours=("rethinkgen.run.wandb_mirror",),
        others=("pytorch_lightning.loggers.*",),
    ),
    "trainer": Place(
        "Lightning's Trainer",
        _subclass_of("pytorch_lightning.Trainer"),
        others=("pytorch_lightning.Trainer",),
    ),
    "hydra.sweeper.sampler": Place(
        "one of Optuna's samplers",
        _subclass_of("optuna.samplers.BaseSampler"),
        others=(
            "optuna.samplers.*",
            "hydra_plugins.hydra_optuna_sweeper._impl.create_nsgaii_sampler",
            "hydra_plugins.hydra_optuna_sweeper._impl.create_nsgaiii_sampler",
            "hydra_plugins.hydra_optuna_sweeper.config.raise_motpe_removed",  # which says what came in its place
        ),
        is_partial=None,
        parts=Place(
            "a sampler, crossover or mutation of Optuna's",
            _subclass_of(
                "optuna.samplers.BaseSampler",
                "optuna.samplers.nsgaii.BaseCrossover",
                "optuna.samplers.nsgaii.BaseMutation",
            ),
            others=("optuna.samplers.*", "optuna.samplers.nsgaii.*"),
        ),
    ),
}
"""Key -> what it accepts."""


def build(config: Any, key: str, /, **keywords: Any) -> Any:
    """Make the object that ``config`` describes at the place ``key``, with ``keywords`` added to its arguments.

    ``NOT_PASSED_ON`` are not among its arguments.

    Raises:
        ValueError: what the object's own constructor said about a value, or that a key or target is not allowed.
    """
    node = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    return _make(node, key, PLACES[key], keywords)


def build_one_of(node: dict[str, Any], key: str, place: str) -> Any:
    """Make what a node describes at ``key``, which is one of several at a place: ``measure.margins`` at ``measure``."""
    return _make(node, key, PLACES[place], {})


def _make(node: Any, key: str, place: Place, keywords: dict[str, Any]) -> Any:
    target = target_of(node, key, place)
    if unknown := [name for name in map(str, node) if name.startswith("_") and name not in SPECIAL]:
        raise ValueError(f"{key}.{unknown[0]}: of keys with a leading underscore only {', '.join(SPECIAL)} are known.")
    if clash := sorted(node.keys() & keywords.keys()):
        raise ValueError(f"{', '.join(clash)} of {target}: not set here, but by keys of their own.")
    is_partial = check_partial(node, key, place)
    found = _find(target, key, place)
    arguments = {
        str(name): _with_parts_made(value, f"{key}.{name}", place.parts or place)
        for name, value in node.items()
        if name not in (*SPECIAL, *NOT_PASSED_ON)
    } | keywords
    if is_partial:
        if unknown := [name for name in arguments if not _may_take(found, name)]:
            options = options_of(found)
            raise ValueError(_no_option(f"{key}.{unknown[0]}", arguments[unknown[0]], target, options))
        return functools.partial(found, **arguments)
    with blamed(found, key, place.asks):
        try:
            return found(**arguments)
        except TypeError as error:
            if not _is_about(arguments, error, found):
                raise
            unknown = [name for name in arguments if f"unexpected keyword argument {name!r}" in str(error)]
            if not unknown:
                raise ValueError(f"{key}: {error}.") from error
            (name,) = unknown
            options = [option for option in options_of(found) if (option in keywords) == (name in keywords)]
            # What is added stands one node above in the config: data.flip, loss.
            node_of_it = key if name in node else key.rpartition(".")[0]
            raise ValueError(
                _no_option(f"{node_of_it}.{name}".lstrip("."), arguments[name], target, options)
            ) from error


def target_class(config: Any, key: str) -> Callable[..., Any]:
    """Return the class or function that a node names at the place ``key``, if the place accepts it."""
    node = OmegaConf.to_container(config) if OmegaConf.is_config(config) else config
    return _find(target_of(node, key, PLACES[key]), key, PLACES[key])


def options_of(found: Callable[..., Any]) -> list[str]:
    """Return the names that a class or function takes, with those of the classes that it hands ``**keywords`` on to."""
    kinds = found.__mro__ if inspect.isclass(found) else (found,)
    options: dict[str, None] = {}
    for kind in kinds:
        if inspect.isclass(kind) and "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(kind).parameters.values()
        options |= dict.fromkeys(each.name for each in parameters if each.kind in NAMED)
        if all(each.kind != inspect.Parameter.VAR_KEYWORD for each in parameters):
            break
    return sorted(options)


def _may_take(found: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(found).parameters.values()
    return any(
        each.kind == inspect.Parameter.VAR_KEYWORD or (each.name == name and each.kind in NAMED) for each in parameters
    )


def _no_option(key: str, value: Any, target: str, options: list[str]) -> str:
    node, _, name = key.rpartition(".")
    close = difflib.get_close_matches(name, options, n=1)
    hint = f"Did you mean {node}.{close[0]}={value}?" if close else f"It has {', '.join(options) or 'none'}."
    return f"{key}={value!r}: {target} has no such option. {hint}"


def target_of(node: Any, key: str, place: Place) -> str:
    """Return what a node of the config names.

    Raises:
        ValueError: it names nothing.
    """
    target = node.get("_target_") if isinstance(node, dict) else None
    if not isinstance(target, str):
        raise ValueError(f"{key}._target_={target!r}: {place.wants} is wanted here.")
    return target


def check_partial(node: dict[str, Any], key: str, place: Place) -> bool:
    """Return whether some arguments of the object are given later.

    Raises:
        ValueError: the node says otherwise than its place.
    """
    is_partial = node.get("_partial_", bool(place.is_partial))
    if not isinstance(is_partial, bool) or place.is_partial not in (None, is_partial):
        raise ValueError(f"{key}._partial_={is_partial!r}: here it is {str(bool(place.is_partial)).lower()}.")
    return is_partial


def _is_about(arguments: dict[str, Any], error: TypeError, found: Callable[..., Any]) -> bool:
    """Whether ``error`` is about what the config gives and leaves out, and none from within the object's own code."""
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError:
        return True
    # It may have handed on what it does not know itself.
    return any(f"unexpected keyword argument {name!r}" in str(error) for name in arguments)


def _with_parts_made(value: Any, key: str, place: Place) -> Any:
    if isinstance(value, list):
        return [_with_parts_made(item, f"{key}[{index}]", place) for index, item in enumerate(value)]
    if isinstance(value, dict):
        if "_target_" in value:
            return _make(value, key, place, {})
        return {name: _with_parts_made(item, f"{key}.{name}", place) for name, item in value.items()}
    return value


def _find(target: str, key: str, place: Place) -> Callable[..., Any]:
    """Return the class or function that ``target`` names, if the place accepts it.

    Raises:
        ValueError: it does not, or code of the user's own cannot be imported.
    """
    module, _, name = target.rpartition(".")
    if name.startswith("_") or not name.isidentifier():
        raise ValueError(_refusal(target, key, place))
    if target in place.others:
        return _imported(target)  # type: ignore[no-any-return]
    found: Any = None
    if module.split(".")[0] == "rethinkgen":
        # Where the config says that it is, no other module needs to be imported.
        modules = sorted(_modules(place), key=lambda ours: ours != module)
        found = next((ours for ours in (_defined(name, place, each) for each in modules) if ours is not None), None)
    elif f"{module}.*" in place.others:
        exported = importlib.import_module(module)
        found = getattr(exported, name, None) if name in exported.__all__ else None
    elif own_code.is_opened(target):
        return _find_own(target, key, place)
    if found is None or not place.fits(found):
        raise ValueError(_refusal(target, key, place))
    return found  # type: ignore[no-any-return]


def _find_own(target: str, key: str, place: Place) -> Callable[..., Any]:
    module, _, name = target.rpartition(".")
    try:
        contents = vars(own_code.import_opened(module))
    except ValueError as error:
        raise ValueError(f"{key}._target_={target}: {error}") from error
    # What such a module has imported from elsewhere is not its own.
    fitting = {
        each: found
        for each, found in contents.items()
        if own_code.is_opened(f"{getattr(found, '__module__', '')}.") and place.fits(found)
    }
    if name not in fitting:
        what = "is none" if name in contents else "does not exist"
        there = f"; {module} has {', '.join(sorted(fitting))}" if fitting else ""
        raise ValueError(f"{key}._target_={target} {what}: {place.wants} is wanted here{there}.")
    return fitting[name]  # type: ignore[no-any-return]


def _imported(full_name: str) -> Any:
    module, _, name = full_name.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _modules(place: Place) -> Iterator[str]:
    """Yield the names of our modules for a place, without importing any."""
    package = Path(__file__).parents[1]
    for name in place.ours:
        path = package.joinpath(*name.split(".")[1:])
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
            if file.name != "__init__.py":
                yield ".".join((package.name, *file.relative_to(package).with_suffix("").parts))


def _defined(name: str, place: Place, module: str) -> Any:
    """Return what a module of ours defines by that name, if it is of the kind; what it imports is not meant."""
    found = getattr(importlib.import_module(module), name, None)
    return found if getattr(found, "__module__", None) == module and place.fits(found) else None


def names_of_ours(key: str) -> list[str]:
    """Return the full names of our classes and functions that a place accepts."""
    return _names_of_ours(PLACES[key])


def _names_of_ours(place: Place) -> list[str]:
    return [
        f"{module}.{name}"
        for module in _modules(place)
        for name in vars(importlib.import_module(module))
        if not name.startswith("_") and _defined(name, place, module) is not None
    ]


def _refusal(target: str, key: str, place: Place) -> str:
    known = {full.rpartition(".")[2]: full for full in [*_names_of_ours(place), *place.others]}
    known = {full if name == "*" else name: full for name, full in known.items()}
    close = difflib.get_close_matches(target.rpartition(".")[2], known, n=3)
    near = ", ".join(known[name] for name in close or sorted(known))
    return (
        f"{key}._target_={target}: {place.wants} is wanted here, such as {near}. "
        f"One of your own needs its package opened by the command: {own_code.suggestion(target)}"
    )
