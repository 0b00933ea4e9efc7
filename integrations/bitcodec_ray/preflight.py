"""A look at every node before the work: bitcodec must be there, in the same version."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bitcodec.errors import MismatchError, MissingExtraError

PACKAGES = ("bitcodec", "bitcodec_ray")


def require_package(
    names: Sequence[str] = PACKAGES, *, runtime_env: dict[str, Any] | None = None
) -> None:
    """Raise unless every node of the cluster can import what its workers will need.

    Steps of this package ask before they begin; Ray itself would start actors again and again.

    Args:
        names: packages to import.
        runtime_env: Ray's, where the job's workers have one of their own.

    Raises:
        MissingExtraError: a node lacks a package.
        MismatchError: a node has another version of bitcodec than this process.
    """
    if not ray.is_initialized():  # Ray starts itself for all calls but those about its nodes
        ray.init()
    here = _versions(names)
    module = sys.modules[__name__]
    # By value: by reference, a worker would need the very package that it is asked about.
    cloudpickle.register_pickle_by_value(module)
    try:
        probe = ray.remote(num_cpus=0, runtime_env=runtime_env or {})(_versions)
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        answers = [probe.options(scheduling_strategy=_on(node)).remote(names) for node in nodes]
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    for node, there in zip(nodes, ray.get(answers), strict=True):
        _compare(node, there, here)


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id=node, soft=False)


def _versions(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages; of a missing one, what importing it says."""
    found = {}
    for name in names:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            found[name] = f"missing: {error}"
        else:
            found[name] = getattr(module, "__version__", "")
    return found


def _compare(node: str, there: dict[str, str], here: dict[str, str]) -> None:
    for name, version in there.items():
        if version.startswith("missing: "):
            raise MissingExtraError(
                f"workers on node {node[:12]} cannot import {name} ({version[9:]}): install "
                "'bitcodec[ray]' there, or pass it in ray.init(runtime_env={'pip': [...]})"
            )
        if version != here[name]:
            raise MismatchError(
                f"workers on node {node[:12]} have {name} {version}, this process {here[name]}: "
                "install one version everywhere"
            )
