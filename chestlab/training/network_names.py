"""What a network is called in results: its class alone does not tell all apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def network_name(about: Mapping[str, Any]) -> str:
    """The class of a network with its strides, or ``timm/NAME``: those of a library share a class.

    Args:
        about: metrics or checkpoint of a run, with ``model`` and, where the network has any,
            ``model_arguments``.
    """
    arguments = about.get("model_arguments") or {}
    arch = arguments.get("arch", "")
    return arch if "/" in arch else with_strides(about["model"], arguments)


def with_strides(model: str, arguments: Mapping[str, Any]) -> str:
    """A network's name, and its ``strides`` where they are among its arguments."""
    return f"{model} (strides {arguments['strides']})" if "strides" in arguments else model
