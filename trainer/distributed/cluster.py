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
        UsageError: TF_CONFIG is malformed, has a role or an address that is not supported, or does
            not contain this worker; or it is missing in a job of several replicas.
    """
    config = _parse(environment.get("TF_CONFIG") or "{}")
    roles, task = _roles(config), _member(config, "task")
    for role in _OTHER_ROLES:
        if role in roles or task.get("type") == role:
            raise UsageError(
                f"TF_CONFIG: found the role {role}, expected chief and worker only; remove it "
                "from the job"
            )
    chiefs = [(role, address) for role in _CHIEFS for address in roles.get(role, [])]
    workers = [*chiefs, *(("worker", address) for address in roles.get("worker", []))]
    if len(workers) < 2:
        replicas = _replicas(environment.get("CLUSTER_SPEC"))
        if replicas > 1:
            raise UsageError(
                f"CLUSTER_SPEC: found {replicas} replicas, expected TF_CONFIG with their addresses"
            )
        if workers and task and str(task.get("index", 0)) != "0":
            raise UsageError(
                f"TF_CONFIG: found the task {json.dumps(task)}, expected the index 0 in its "
                "cluster of one worker; list the addresses of all workers"
            )
        return None
    if len(chiefs) > 1:
        raise UsageError(f"TF_CONFIG: found {len(chiefs)} chiefs, expected one")
    addresses = tuple(address for _, address in workers)
    for address in addresses:
        if not re.fullmatch(r".+:\d{1,5}", address):
            raise UsageError(f"TF_CONFIG: found the address {address!r}, expected host:port")
        if addresses.count(address) > 1:
            raise UsageError(f"TF_CONFIG: found the address {address!r} twice, expected one each")
    same_role = [number for number, (role, _) in enumerate(workers) if role == task.get("type")]
    index = str(task.get("index"))
    if not index.isdecimal() or int(index) >= len(same_role):
        raise UsageError(
            f"TF_CONFIG: found the task {json.dumps(task)}, expected a type and an index "
            f"in its cluster of {len(addresses)}"
        )
    return Cluster(addresses, same_role[int(index)])


def _parse(text: str) -> dict[str, Any]:
    """Returns TF_CONFIG as a JSON object.

    A job that ignored a malformed TF_CONFIG would train on each machine, all data on each.
    """
    try:
        config = json.loads(text)
    except ValueError as error:
        raise UsageError(f"TF_CONFIG: not JSON: {error}; found {text[:80]!r}") from None
    if not isinstance(config, dict):
        raise UsageError(f"TF_CONFIG: found {text[:80]!r}, expected a JSON object with a cluster")
    return config


def _member(config: dict[str, Any], name: str) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise UsageError(f"TF_CONFIG: found {value!r} as {name}, expected a JSON object")
    return value


def _roles(config: dict[str, Any]) -> dict[str, list[str]]:
    """Returns the addresses by role, without roles that have none."""
    roles = {}
    for role, addresses in _member(config, "cluster").items():
        if role not in (*_CHIEFS, "worker", *_OTHER_ROLES):
            raise UsageError(f"TF_CONFIG: found the role {role!r}, expected chief and worker")
        is_list = isinstance(addresses, list) and all(isinstance(each, str) for each in addresses)
        if addresses and not is_list:
            raise UsageError(
                f"TF_CONFIG: found {addresses!r} as {role}, expected lists of host:port"
            )
        if addresses:
            roles[role] = addresses
    return roles


def _replicas(text: str | None) -> int:
    """Returns the number of replicas by CLUSTER_SPEC; 0 if it does not say."""
    try:
        pools = json.loads(text or "{}")["cluster"]
        return sum(len(pools.get(pool) or ()) for pool in _POOLS)
    except (AttributeError, LookupError, TypeError, ValueError):
        return 0
