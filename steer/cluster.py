"""Work by actors of a Ray cluster: the one that RAY_ADDRESS or `ray start` names, else one that starts here."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from steer.errors import SteerError
from steer.hub import HELD
from steer.progress import note_once

LOOK = 1.0  # seconds between two looks at the head of the cluster
LONG = 60.0  # seconds without any actor after which it is said
LONGEST = 300  # letters of a reason that is no sentence of ours
GIVEN_UP = "RAY_gcs_rpc_server_reconnect_timeout_s"  # Ray's variable: seconds without a head, 60 if nobody says


class Head:
    """The process that a cluster depends on, at HOST:PORT.

    It is what reports that an actor or a machine died. When it is gone itself, Ray reports nothing, and ends this
    process after a while with a line of its own; `gone` notices it before, after half of that time.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.address, self.place = address, (host.strip("[]"), int(port))
        self.patience = float(os.environ.get(GIVEN_UP) or 60) / 2
        self.silent: float | None = None  # since when

    def answers(self) -> bool:
        """Whether something accepts connections there."""
        try:
            socket.create_connection(self.place, timeout=self.patience / 5).close()
        except OSError:
            return False
        return True

    def gone(self) -> bool:
        """Whether it has been silent for too long; how long parts take is no matter."""
        began = time.monotonic()
        if self.answers():
            self.silent = None
            return False
        self.silent = self.silent or began
        return time.monotonic() - self.silent >= self.patience


def by_actors(kind: type[Any], start: Callable[[], Any], todo: Iterator[Any], workers: int, done: str) -> Iterator[Any]:
    """Yield what `kind(start).do` makes of each part, in any order; each actor has a GPU if there are any.

    Ray Data is not used: it would read on the CPUs that its actors hold, and wait for ever if they hold all.
    """
    ray = _connected()
    from ray.exceptions import RayActorError, RayError

    resources = ray.cluster_resources()
    gpus = int("GPU" in resources)
    unit = "GPU" if gpus else "CPU"
    if workers > (most := int(resources.get(unit, 0))):
        raise SteerError(f"--workers ray: --num-proc {workers}, but the cluster has {most} {unit}s. Lower --num-proc.")
    known = {HELD: os.environ[HELD]} if os.environ.get(HELD) else {}  # commits of the hub that this run holds
    actor = ray.remote(num_cpus=1, num_gpus=gpus, runtime_env={"env_vars": known} if known else None)(kind)
    head = Head(ray.get_runtime_context().gcs_address)
    free = [actor.remote(start) for _ in range(workers)]
    busy: dict[Any, Any] = {}
    starts, began = [one.__ray_ready__.remote() for one in free], time.monotonic()

    def finished() -> Any:
        while True:
            if head.gone():  # asked also while parts are done, which they are for a while without it
                ray.shutdown()  # else it would end this process soon; the next stage connects again
                raise SteerError(
                    f"--workers ray: the Ray cluster is gone: its head at {head.address} does not answer any more. Run "
                    "the same command again to go on."
                )
            if ready := ray.wait([*busy], timeout=LOOK)[0]:
                free.append(busy.pop(ready[0]))
                return ray.get(ready[0])
            if time.monotonic() - began > LONG and not ray.wait(starts, timeout=0)[0]:
                note_once(
                    f"--workers ray: no actor has begun to work. They wait while others hold the {unit}s of the "
                    "cluster, or still load what they need."
                )

    try:
        for part in todo:
            if not free:
                yield finished()
            one = free.pop()
            busy[one.do.remote(part)] = one
        while busy:
            yield finished()
    except RayActorError:
        raise SteerError(
            f"--workers ray: an actor that {done} has died, or its machine. Lower --num-proc if memory ran out, and "
            "run the same command again."
        ) from None
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        reason = " ".join(str(cause).split())
        if not isinstance(cause, SteerError) and len(reason) > LONGEST:  # a traceback, whose end says most
            reason = f"... {reason[-LONGEST:]}"
        reason = reason.rstrip(".")
        raise SteerError(f"--workers ray: {reason}. Run the same command again to go on.") from None


def _connected() -> Any:
    """Return the module `ray`, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # one actor's error is said; Ray prints the others'
    try:
        import ray
    except ImportError:
        raise SteerError('--workers ray: Ray is not installed. pip install "steer-lm[ray]".') from None
    if ray.is_initialized():
        if Head(ray.get_runtime_context().gcs_address).answers():
            return ray
        ray.shutdown()  # its cluster is gone since the last stage
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://"):
        raise SteerError(
            f"--workers ray: RAY_ADDRESS {address} is for clients, whose folders the cluster may not see. Start the "
            "command on a machine of the cluster, with HOST:PORT of its head."
        )
    if re.fullmatch(r".+:\d+", address) and not Head(address).answers():  # Ray would try for a quarter of an hour
        raise SteerError(f"--workers ray: no Ray cluster answers at {address}. Start it, or unset RAY_ADDRESS.")
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # noqa: BLE001  # what does not start in time raises no narrower kind
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SteerError(f"--workers ray: {reason}. Run the same command again.") from None
    return ray
