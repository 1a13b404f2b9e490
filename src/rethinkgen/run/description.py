"""What a run is, found out once at the door and handed on: its id, its folder's name, its config, its data.

Here are the resolvers that Hydra names folders by, too. Light: no torch.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rethinkgen import configs
from rethinkgen.blame import blamed
from rethinkgen.run import trial
from rethinkgen.run.build import PLACES, build
from rethinkgen.run.check import check
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.former_identity import FORMER_NAME, former_ids
from rethinkgen.run.identity import (
    ID_LENGTH,
    check_is_json,
    choices,
    contents_of_files,
    id_of,
    identifying,
    normalised,
    slug,
    targets,
)
from rethinkgen.run.known_keys import check_keys_are_read
from rethinkgen.run.run import has_published_budget
from rethinkgen.run.selection import KEY, begun_by, contents_of_selection, names_read, words_on_change

BUDGET_BEFORE = {"max_steps": 25_000, "max_epochs": None, "until_fit": False}
"""Of all data but the digits, until those without a published budget were given 100 epochs, or until fitted."""
LIBRARIES = ("rethinkgen", "torch", "torchvision", "pytorch_lightning", "wandb", "sklearn", "optuna")
"""Whose version stands in the result. Of all other code that a config names, a digest does."""


@dataclass(frozen=True, eq=False)
class Description:
    """One run, before anything is trained. ``config`` is resolved, and plain types alone."""

    run_id: str
    slug: str
    choices: dict[str, Any]
    overrides: list[str]
    config: dict[str, Any]
    fingerprint: str | None
    """Names the data; ``None`` where they are not there."""
    contents: dict[str, str]
    """Key that names a file -> digest of the file."""
    sweep: str
    seed: int

    @property
    def name(self) -> str:
        """The name of the run's folder; only its end, the id, says which run it is."""
        return f"{self.slug}-{self.run_id}"

    @functools.cached_property
    def former_ids(self) -> list[str]:
        """Ids that the run had, see ``rethinkgen.run.former_identity``."""
        return former_ids(self.config, self.fingerprint, self.all_examples)

    @functools.cached_property
    def all_examples(self) -> int | None:
        """How many examples there are to train on, where the source can tell without loading them."""
        return _num_train(self.config["data"])

    @functools.cached_property
    def code(self) -> dict[str, str]:
        """Package -> digest of its source, of all packages but ours and the usual libraries that the config names."""
        packages = {target.partition(".")[0] for target in targets(self.config)} - set(LIBRARIES)
        return {package: digest for package in sorted(packages) if (digest := digest_of_code(package)) is not None}

    def facts(self) -> dict[str, Any]:
        """What a result and the other ranks are told of the run."""
        return {
            "run_id": self.run_id,
            "sweep": self.sweep,
            "choices": self.choices,
            "overrides": self.overrides,
            "config": self.config,
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "contents": self.contents,
            "code": self.code,
        }


def describe(
    root: DictConfig,
    runtime_choices: Mapping[str, Any],
    overrides: Sequence[str],
    sweep: str,
    folder: Path | None = None,
) -> Description:
    """Describe the run of a composed config, once ``check`` has looked at it; ``folder`` as of ``describe_resolved``.

    Raises:
        ValueError: a key was left ``???``, is read by nothing, or has a value that is not allowed, or that no file of
            the run could hold.
    """
    resolved = resolved_config(root)
    check_keys_are_read(root, overrides)
    return describe_resolved(resolved, runtime_choices, overrides, sweep, folder)


def describe_resolved(
    config: dict[str, Any],
    runtime_choices: Mapping[str, Any],
    overrides: Sequence[str],
    sweep: str,
    folder: Path | None = None,
) -> Description:
    """Describe the run of a config that ``resolved_config`` returned.

    Args:
        config: it.
        runtime_choices: group -> choice, as Hydra says.
        overrides: as they were typed.
        sweep: the name of the sweep.
        folder: of the run, where it is known; else those in the sweep's are looked at, should it be one of them.

    Raises:
        ValueError: a key has a value that no file of the run could hold.
    """
    try:
        resolved = json.dumps(config, allow_nan=False)
    except (ValueError, TypeError):
        check_is_json(config)
        raise
    begun = _may_be_begun_in(config, sweep, folder)
    return _describe(resolved, json.dumps(dict(runtime_choices)), tuple(overrides), sweep, begun)


def check_resolved(config: dict[str, Any], overrides: Sequence[str]) -> None:
    """Look at a config that ``resolved_config`` returned, where what it leaves out examples by is not known yet.

    Raises:
        ValueError: as of ``describe``.
    """
    check_is_json(config)
    told = normalised(config)
    check(told, overrides)
    fingerprint(json.dumps(told["data"]["source"], sort_keys=True))


def _may_be_begun_in(config: dict[str, Any], sweep: str, folder: Path | None) -> Path | None:
    """Return the folder of a run, or of a sweep, that may say what a selection of runs left out; else nothing."""
    data, results = config.get("data"), config.get("results_dir")
    if not isinstance(data, dict) or not isinstance(data.get("exclude"), dict):
        return None
    if folder is not None or not isinstance(results, str):
        return folder
    return Path(results).expanduser().absolute() / sweep


@functools.lru_cache(maxsize=1)  # Hydra's resolver asks for the folder's name just before the run is told to begin
def _describe(
    resolved: str, runtime_choices: str, overrides: tuple[str, ...], sweep: str, begun: Path | None
) -> Description:
    config = normalised(json.loads(resolved))
    check(config, overrides)
    if config["debug"]:
        config = trial.shortened(config)
    data = config["data"]
    found = fingerprint(json.dumps(data["source"], sort_keys=True))
    identified = _identified(config)
    chosen = choices(config, json.loads(runtime_choices))
    contents = _contents(config, identified, found, begun)
    told = identifying(identified, found, contents)
    return Description(
        run_id=id_of(told),
        slug=slug(config, chosen, told),
        choices=chosen,
        overrides=list(overrides),
        config=config,
        fingerprint=found,
        contents=contents,
        sweep=sweep,
        seed=config["seed"],
    )


def _identified(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config as it counts: for all examples, no number of them."""
    data = config["data"]
    is_all = data.get("num_train") is not None and data["num_train"] == _num_train(data)
    return config | {"data": data | {"num_train": None}} if is_all else config


def words_on_former_selection(description: Description, sweep_folder: Path) -> list[str]:
    """Say which run in a sweep's folder the same command began last, by what its selection of runs said then.

    Nothing where the run that it is now was begun before.
    """
    node = description.config["data"].get("exclude")
    if not isinstance(node, dict):
        return []
    contents, identified, former = description.contents, _identified(description.config), []
    for run_id, digest, folder in begun_by(node, sweep_folder, f"{description.slug}-*"):
        if run_id == description.run_id:
            return []
        told = contents | {KEY: digest}
        if id_of(identifying(identified, description.fingerprint, told)) == run_id:
            former.append(folder)
    if not former:
        return []
    latest = max(former, key=lambda folder: folder.excluded.stat().st_mtime)
    return [words_on_change(latest.path.name, names_read(node, latest, or_ask=False), names_read(node))]


def _contents(
    config: dict[str, Any], identified: dict[str, Any], found: str | None, begun: Path | None
) -> dict[str, str]:
    """Return the digest of what each key names.

    Where the runs of a selection cannot be asked, of which some may be trained again or gone, the run that was begun
    by this very command before says what they said then.

    Raises:
        ValueError: a file cannot be read, or runs cannot be asked and no such run was begun.
    """
    contents = contents_of_files(config)
    try:
        return contents | contents_of_selection(config, found)
    except ValueError:
        for run_id, digest, _ in () if begun is None else begun_by(config["data"]["exclude"], begun):
            told = contents | {KEY: digest}
            if id_of(identifying(identified, found, told)) == run_id:
                return told
        raise


def typed_overrides(hydra: Any) -> list[str]:
    """Return a job's overrides from Hydra's node as they were typed: a ``${...}`` in them means nothing there."""
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return list(overrides)


def resolved_config(root: DictConfig) -> dict[str, Any]:
    """Return the run's whole config as plain types, without Hydra's own node.

    Resolved key by key: ``sweep`` is named by a resolver that is itself given the whole config.

    Raises:
        ValueError: a key was left ``???``.
    """
    config: dict[str, Any] = {}
    for key in map(str, root):
        if key in ("hydra", "sweep"):
            continue
        node = root._get_node(key)
        if not OmegaConf.is_config(node):
            config[key] = root[key]
            continue
        try:
            config[key] = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException:
            if missing := OmegaConf.missing_keys(node):
                names = ", ".join(sorted(missing))
                raise ValueError(f"{names} must be given on the command line, for example {min(missing)}=...") from None
            raise
    return config


@functools.cache
def fingerprint(source: str) -> str | None:
    """Return what names the data of a source that this command was asked for; looked at once a process.

    ``source`` is its config as JSON: never one that was found in a file, of which nothing is built.
    """
    with blamed(made := _source(source), "data.source", PLACES["data.source"].asks):
        found: str | None = made.fingerprint()
    return found


@functools.cache
def _source(source: str) -> Any:
    return build(json.loads(source), "data.source")


def look_again() -> None:
    """Forget what data and code looked like, where a process outlives a change of them."""
    for remembered in (fingerprint, _source, digest_of_code, _describe):
        remembered.cache_clear()


def _num_train(data: dict[str, Any]) -> int | None:
    """Return how many examples there are to train on, where the source can tell without loading them."""
    source = _source(json.dumps(data["source"], sort_keys=True))
    count = source.num_train() if hasattr(source, "num_train") else None
    if count is None or not isinstance(data.get("validation"), int | float):
        return None
    return int(count - round(data["validation"] * count))


def changed_code(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the packages of the user's own that are not what they were, by their digests."""
    return sorted(name for name, digest in now.items() if then.get(name) != digest)


@functools.cache
def digest_of_code(package: str) -> str | None:
    """Hash all Python files of a package, or of a module, without importing it; ``None`` where it is not found."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = [Path(place) for place in spec.submodule_search_locations or []]
    files = [(path.relative_to(place), path) for place in places for path in sorted(place.rglob("*.py"))]
    # Not what editors and notebooks leave beside it under hidden names.
    files = [(name, path) for name, path in files if path.is_file() and not f"/{name}".count("/.")]
    if not places and spec.has_location and spec.origin is not None:  # else it is frozen into Python
        files = [(Path(Path(spec.origin).name), Path(spec.origin))]
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16] if files else None


# Folders.


@dataclass(frozen=True)
class _Listing:
    changed: int
    by_id: dict[str, list[str]]
    has_former: bool


_listings: dict[Path, _Listing] = {}


def folders_of(description: Description, sweep_folder: Path) -> list[Path]:
    """Return the folders in a sweep's that are this run's, whatever they are called: the best first.

    A finished one comes before one that was begun, and that before one that holds nothing yet; of the same kind one
    under the run's id before those under its former ids, and the name that this command gives it before others.
    """
    listing = _list(sweep_folder)
    ids = [description.run_id, *(description.former_ids if listing.has_former else ())]
    found = [sweep_folder / name for each in ids for name in listing.by_id.get(each, [])]
    if len(found) > 1:
        found.sort(key=lambda path: (not path.name.endswith(description.run_id), path.name != description.name))
        found.sort(key=_lacks)
    return found


def folders_with_id(run_id: str, sweep_folder: Path) -> list[Path]:
    """Return the folders in a sweep's that are named by a run's id of today, the best first; none where it is no id."""
    names = _list(sweep_folder).by_id.get(run_id, []) if re.fullmatch(rf"[0-9a-f]{{{ID_LENGTH}}}", run_id) else []
    return sorted((sweep_folder / name for name in names), key=_lacks)


def run_before(description: Description, root: DictConfig, sweep_folder: Path) -> tuple[str, Path] | None:
    """Return the folder of the run that the command meant before data of no published budget had one of their own.

    With the overrides that ask for it today. ``root`` is what the description was made of, which tells what neither
    the command nor an experiment gives.
    """
    config = description.config
    if has_published_budget(config):
        return None
    ours = yaml.safe_load((configs.folder() / "train.yaml").read_text(encoding="utf-8"))
    left = {key for key in BUDGET_BEFORE if _as_written(root, key) == ours[key]}
    if not {"max_steps", "max_epochs"} <= left:
        left &= {"until_fit"}
    former = {key: value for key, value in BUDGET_BEFORE.items() if key in left}
    before = config | former
    run_id = id_of(identifying(before, description.fingerprint, description.contents))
    found = folders_of(dataclasses.replace(description, config=before, run_id=run_id), sweep_folder)
    asked = " ".join(f"{key}={json.dumps(value)}" for key, value in former.items() if value is not None)
    return (asked, found[0]) if found and run_id != description.run_id else None


def _as_written(root: DictConfig, key: str) -> Any:
    node = root._get_node(key)
    return node._value() if isinstance(node, Node) else None


def renamed_since(path: Path) -> Path | None:
    """Return the folder that had the former name ``path``, known by the id that its W&B run keeps."""
    former_id = path.name.rpartition("-")[2]
    folders = (file.parent for file in sorted(path.parent.glob("*/identity.json")))
    return next((each for each in folders if RunFolder(each).read_identity().get("wandb_id") == former_id), None)


def _lacks(path: Path) -> tuple[bool, bool]:
    """Return what is least for a finished run's folder, and greatest for one that holds nothing."""
    return not (path / "result.json").exists(), not (path / "config.yaml").exists()


def _list(folder: Path) -> _Listing:
    """Return the names in a sweep's folder by the ids that they end with; read again when the folder has changed."""
    try:
        changed = folder.stat().st_mtime_ns
    except OSError:
        return _Listing(0, {}, has_former=False)
    known = _listings.get(folder)
    if known is None or known.changed != changed:
        by_id: dict[str, list[str]] = {}
        for name in sorted(os.listdir(folder)):
            by_id.setdefault(name.rpartition("-")[2], []).append(name)
        has_former = any(FORMER_NAME.search(name) for names in by_id.values() for name in names)
        known = _listings[folder] = _Listing(changed, by_id, has_former)
    return known


# Resolvers. Never use_cache=True: the cache is copied into every job of a sweep, and all would share one folder.


def whole(root: DictConfig) -> DictConfig:
    """Return the whole config in which a resolver is asked: ``--cfg hydra`` resolves Hydra's node without the rest."""
    if "results_dir" in root or not HydraConfig.initialized():
        return root
    parent: Any = HydraConfig.get()._get_parent()  # type: ignore[attr-defined]
    return parent if OmegaConf.is_dict(parent) else root


def _run_slug(*, _root_: DictConfig) -> str:
    _root_ = whole(_root_)
    hydra = _root_.hydra
    description = describe(_root_, hydra.runtime.choices, typed_overrides(hydra), str(_root_.sweep))
    found = folders_of(description, Path(_sweep_folder(_root_=_root_)))
    return found[0].name if found else description.name


def _sweep_folder(*, _root_: DictConfig) -> str:
    """Return ``<results_dir>/<sweep>``, checked before Hydra makes folders there.

    Raises:
        ValueError: it cannot be such a folder.
    """
    _root_ = whole(_root_)
    results, sweep = _root_.results_dir, _root_.sweep
    if not isinstance(sweep, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", sweep):
        raise ValueError(
            f"sweep={sweep!r}: a name of letters, digits, '_', '-' and '.' is needed, such as sweep=my_sweep."
        )
    if not isinstance(results, str) or not results:
        raise ValueError(f"results_dir={results!r}: the path of a folder is needed.")
    if _root_.get("debug") in (True, 1):
        return str(trial.folder() / sweep)
    folder = Path(results).expanduser().absolute() / sweep
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        what = "is not a folder" if not existing.is_dir() else "cannot be written to"
        raise ValueError(f"results_dir={results!r}: {existing} {what}. Choose another results_dir=...")
    return str(folder)


def _sweep_name(name: str | None = None, own_data: Sequence[str] = (), *, _root_: DictConfig) -> str:
    """Return ``name``, or else the experiment's, with the data's where these were chosen and are not ``own_data``."""
    # Inside the job Hydra's node is no longer part of the config. In a notebook, compose() keeps none at all.
    if "hydra" not in _root_ and not HydraConfig.initialized():
        return name or "runs"
    hydra = _root_.hydra if "hydra" in _root_ else HydraConfig.get()
    choices = hydra.runtime.choices
    if not choices.get("experiment"):
        return "runs"
    name = name or str(choices["experiment"]).replace("/", "-")
    has_own_data = any(override.startswith("data=") for override in typed_overrides(hydra))
    # A choice of a folder below its group's, my/cats, is no folder below the sweep's.
    data = str(choices["data"]).replace("/", "-")
    return f"{name}-{data}" if has_own_data and choices["data"] not in own_data else name


def _for_data(default: Any, exceptions: dict[str, Any], *, _root_: DictConfig) -> Any:
    """``${for_data:0.1,{digits:0.05}}``: 0.05 on digits, 0.1 on any other data."""
    name = _root_.data.name
    return exceptions.get(name, default) if isinstance(name, str) else default


def _unless(given: Any, value: Any) -> Any:
    """``${unless:${max_steps},100}``: 100, but null where ``max_steps`` is given."""
    return value if given is None else None


OmegaConf.register_resolver("run_slug", _run_slug, replace=True)
OmegaConf.register_resolver("sweep_folder", _sweep_folder, replace=True)
OmegaConf.register_resolver("sweep_name", _sweep_name, replace=True)
OmegaConf.register_resolver("for_data", _for_data, replace=True)
OmegaConf.register_resolver("unless", _unless, replace=True)
