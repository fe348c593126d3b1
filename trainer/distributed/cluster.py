"""The workers of a job, as TF_CONFIG describes them.

Sources: TensorFlow's TF_CONFIG, and Vertex AI's CLUSTER_SPEC.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import UsageError

# The roles of replicas in TF_CONFIG; Vertex AI's own name for them is worker pools.
_CHIEFS = ("chief", "master")
_OTHER_ROLES = ("ps", "evaluator")
_POOLS = tuple(f"workerpool{number}" for number in range(4))


@dataclass(frozen=True)
class Cluster:
    """The workers that train together, two or more.

    Attributes:
        addresses: host:port of each; the first one is the chief, who alone writes anything.
        index: of this worker.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes what the job leaves behind."""
        return self.index == 0


def read_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """Returns the workers of the job by TF_CONFIG; None if there is one only.

    Without a chief the first worker is it, as for TensorFlow itself. CLUSTER_SPEC is read
    leniently: it is always there, and only its worker pools say anything.

    Raises:
        UsageError: a role that has no part in this kind of training, or a worker without a place.
    """
    config = _object(environment.get("TF_CONFIG"))
    roles = _lists(config.get("cluster"))
    task = _object(config.get("task"))
    for role in _OTHER_ROLES:
        if role in roles or task.get("type") == role:
            raise UsageError(f"TF_CONFIG: found the role {role}, expected chief and worker only")
    chiefs = [(role, address) for role in _CHIEFS for address in roles.get(role, [])]
    workers = [*chiefs, *(("worker", address) for address in roles.get("worker", []))]
    if len(workers) < 2:
        pools = _lists(_object(environment.get("CLUSTER_SPEC")).get("cluster"))
        replicas = sum(len(pools.get(pool, [])) for pool in _POOLS)
        if replicas > 1:
            raise UsageError(
                f"CLUSTER_SPEC: found {replicas} replicas, expected TF_CONFIG beside it, which "
                "says where they are"
            )
        return None
    if len(chiefs) > 1:
        raise UsageError(f"TF_CONFIG: found {len(chiefs)} chiefs, expected one")
    addresses = tuple(str(address) for _, address in workers)
    for address in addresses:
        if not re.fullmatch(r".+:\d{1,5}", address):
            raise UsageError(f"TF_CONFIG: found the address {address!r}, expected host:port")
    mine = [at for at, (role, _) in enumerate(workers) if role == task.get("type")]
    index = str(task.get("index"))
    if not index.isdecimal() or int(index) >= len(mine):
        raise UsageError(
            f"TF_CONFIG: found the task {json.dumps(task)}, expected a type and an index that are "
            f"in its cluster of {len(addresses)}"
        )
    return Cluster(addresses, mine[int(index)])


def _object(value: Any) -> dict[str, Any]:
    """Returns a JSON object, also one that is given as its text; an empty one for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    return value if isinstance(value, dict) else {}


def _lists(value: Any) -> dict[str, list[Any]]:
    """Returns what a JSON object has for lists, without empty ones."""
    return {name: each for name, each in _object(value).items() if each and type(each) is list}
