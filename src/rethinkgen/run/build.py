"""The one place where a ``_target_`` of the config becomes an object."""

from __future__ import annotations

import functools
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

# Of a run's identity, or for what is looked at without torch: by ``rethinkgen.run.identity`` and by a sweep's pool.
NOT_PASSED_ON = ("protocol", "closed_form", "runs_alone")

# A config is data, possibly somebody else's: it may name our classes and these libraries', and nothing more.
ALLOWED_TARGETS = ["rethinkgen.*", "torch.*", "torchvision.*", "pytorch_lightning.*", "wandb.*"]


def build(config: DictConfig, /, **keywords: Any) -> Any:
    """Make the object that ``config`` describes, with ``keywords`` added to its arguments.

    ``NOT_PASSED_ON`` are not among its arguments.

    Raises:
        ValueError: what the object's own constructor said about a value, or that a key or target is not allowed.
    """
    container = OmegaConf.to_container(config, resolve=True)
    arguments = {key: node for key, node in container.items() if key not in NOT_PASSED_ON}  # type: ignore[union-attr]
    if clash := sorted(map(str, arguments.keys() & keywords.keys())):
        raise ValueError(f"{', '.join(clash)} of {arguments.get('_target_')}: not set here, but by keys of their own.")
    try:
        made = instantiate({**arguments, "_convert_": "all"}, _execution_whitelist_=ALLOWED_TARGETS, **keywords)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError | OSError):
            raise cause from None
        raise ValueError(str(error)) from cause
    except TypeError as error:
        if "unexpected keyword argument" not in str(error) and "takes no arguments" not in str(error):
            raise
        raise ValueError(f"{error}: {arguments.get('_target_')} has no such option.") from error
    if isinstance(made, functools.partial):
        # Hydra's own asks at every call whether it is allowed (22 us, twice an optimizer step for a schedule). It was
        # asked just now.
        return functools.partial(made.func, *made.args, **made.keywords)
    return made
