"""A server of a policy: its port, the service with policy and scorer, and the loop that answers requests."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import uvicorn

from steer.errors import SteerError
from steer.generation.prefill import shareable
from steer.generation.recommended import chosen
from steer.labelling.obtained import labeller
from steer.labelling.scorer import COUNTABLE, Scorer, scorer_of_new
from steer.models.card import Card
from steer.models.policy import Policy, load_policy
from steer.progress import note_once
from steer.serve.answer import Service
from steer.serve.api import application
from steer.serve.engine import DecoderThread
from steer.serve.gate import Gate
from steer.serve.settings import ServeSettings

GRACE = 10  # seconds that running requests have when the server stops


class Server:
    """A policy with an open port, where requests wait until `run` answers them."""

    def __init__(self, service: Service, listening: socket.socket, key: str, host: str) -> None:
        self.service = service
        host_shown, self.port = listening.getsockname()[:2]
        self.url = f"http://{f'[{host_shown}]' if ':' in host_shown else host_shown}:{self.port}"
        hosts = {"localhost", "127.0.0.1", "::1", host} if _local(host) else set()
        app = Gate(application(service), service, key, hosts)
        self._listening = listening
        self._loop = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE))

    def run(self) -> None:
        """Answer requests until interrupted, or until another thread calls `stop`."""
        self.service.engine.start()
        try:
            self._loop.run(sockets=[self._listening])
        except KeyboardInterrupt:
            pass
        finally:
            self.service.engine.stop()

    def stop(self) -> None:
        """Let `run` end after the running requests."""
        self._loop.should_exit = True


@contextmanager
def open_server(
    policy: Policy | str, settings: ServeSettings, *, host: str = "127.0.0.1", port: int = 8000, key: str = ""
) -> Iterator[Server]:
    """Open a port, then load a policy and its scorer; yield the server, whose `run` answers OpenAI's API.

    `port`: 0 takes any free one. `key`: what clients must send; an address that others can reach needs one. SteerError
    for a port in use, a scorer that scores none of the policy's attributes, or a model whose requests cannot share a
    batch.
    """
    if not _local(host) and not key:
        raise SteerError(f"--host {host}: others could use the model. Give --api-key or set STEER_API_KEY.")
    name = settings.name or Path(policy if isinstance(policy, str) else policy.name).resolve().name
    if "@" in name:
        raise SteerError(f"--name {name}: what follows an '@' is a target. Choose another name.")
    with bound(host, port) as listening:
        scorer = _scorer(policy, settings.scorer, settings.trust_remote_code)
        if isinstance(policy, str):
            policy = load_policy(policy, dtype=settings.dtype, trust_remote_code=settings.trust_remote_code)
        if not shareable(policy):
            raise SteerError(f"{policy.name}: keeps more than keys and values, so requests cannot share a batch.")
        sampling, values = chosen(policy, settings)
        if values:
            note_once(f"{values}.")
        policy = replace(policy, name=name)  # errors that clients read do not name folders of this machine
        service = Service(policy, DecoderThread(policy, settings.batch_size), settings, name, sampling, scorer)
        yield Server(service, listening, key, host)


def _scorer(policy: Policy | str, name: str, trust_remote_code: bool) -> Scorer | None:
    """Load a scorer of fresh responses; SteerError if it scores none of the policy's attributes.

    Without a name it is the one that labelled the policy's rows, if that only counts, which costs nothing; else None.
    """
    card = policy.card if isinstance(policy, Policy) else Card.find(policy)
    if not name:
        try:
            return labeller(card, "the page") if card and card.scorer_spec.startswith(COUNTABLE) else None
        except SteerError as error:  # a policy of another version
            note_once(str(error))
            return None
    scorer = scorer_of_new(name, "--scorer", trust_remote_code=trust_remote_code)
    if card and card.attributes and not {*card.attributes} & {*scorer.attributes}:
        raise SteerError(
            f"--scorer {name}: scores {', '.join(scorer.attributes)}, none of {', '.join(card.attributes)}, "
            "which this policy was conditioned on. Use the scorer that labelled its rows."
        )
    return scorer


def _local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound(host: str, port: int) -> socket.socket:
    """Open a listening socket. Called before the model is loaded, so that a port in use is reported at once."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()  # until then a second server could bind it too, and fail when its model is loaded
    except OSError as error:
        raise SteerError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}). Choose another."
        ) from None
    return listening
