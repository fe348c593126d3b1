"""Reads the workers of a job from the environment variable TF_CONFIG.

Sources: TensorFlow's TF_CONFIG, and Vertex AI's CLUSTER_SPEC.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import UsageError

# Roles in TF_CONFIG. Vertex AI's CLUSTER_SPEC has worker pools instead.
_CHIEFS = ("chief", "master")
_OTHER_ROLES = ("ps", "evaluator")
_POOLS = tuple(f"workerpool{number}" for number in range(4))


@dataclass(frozen=True)
class Cluster:
    """Two or more workers that train together.

    Attributes:
        addresses: host:port of each worker; the first is the chief, which alone writes results.
        index: index of this worker, from 0.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the run directory."""
        return self.index == 0


def read_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """Returns the workers of the job by TF_CONFIG; None for a single worker.

    Without a chief, the first worker is the chief, as in TensorFlow. CLUSTER_SPEC is only used to
    detect a missing TF_CONFIG: Vertex AI always sets it.

    Args:
        environment: environment variables.

    Raises:
        UsageError: TF_CONFIG has a role or an address that is not supported, or does not contain
            this worker; or it is missing in a job of several replicas.
    """
    config = _object(environment.get("TF_CONFIG"))
    roles = _lists(config.get("cluster"))
    task = _object(config.get("task"))
    for role in _OTHER_ROLES:
        if role in roles or task.get("type") == role:
            raise UsageError(
                f"TF_CONFIG: found the role {role}, expected chief and worker only; remove it "
                "from the job"
            )
    chiefs = [(role, address) for role in _CHIEFS for address in roles.get(role, [])]
    workers = [*chiefs, *(("worker", address) for address in roles.get("worker", []))]
    if len(workers) < 2:
        pools = _lists(_object(environment.get("CLUSTER_SPEC")).get("cluster"))
        replicas = sum(len(pools.get(pool, [])) for pool in _POOLS)
        if replicas > 1:
            raise UsageError(
                f"CLUSTER_SPEC: found {replicas} replicas, expected TF_CONFIG with their addresses"
            )
        return None
    if len(chiefs) > 1:
        raise UsageError(f"TF_CONFIG: found {len(chiefs)} chiefs, expected one")
    addresses = tuple(str(address) for _, address in workers)
    for address in addresses:
        if not re.fullmatch(r".+:\d{1,5}", address):
            raise UsageError(f"TF_CONFIG: found the address {address!r}, expected host:port")
    same_role = [number for number, (role, _) in enumerate(workers) if role == task.get("type")]
    index = str(task.get("index"))
    if not index.isdecimal() or int(index) >= len(same_role):
        raise UsageError(
            f"TF_CONFIG: found the task {json.dumps(task)}, expected a type and an index "
            f"in its cluster of {len(addresses)}"
        )
    return Cluster(addresses, same_role[int(index)])


def _object(value: Any) -> dict[str, Any]:
    """Returns a JSON object, parsed if it is a string; an empty one for any other value."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    return value if isinstance(value, dict) else {}


def _lists(value: Any) -> dict[str, list[Any]]:
    """Returns the entries of a JSON object that are lists and not empty."""
    return {name: each for name, each in _object(value).items() if each and type(each) is list}
