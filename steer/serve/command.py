"""`steer serve`: a policy as an OpenAI-compatible API, drawn in one running batch, and the page with the sliders."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import click

from steer.config.serve import ServeConfig
from steer.errors import SteerError
from steer.generation.prefill import shareable
from steer.labelling.scorer import Scorer, load_scorer
from steer.models.card import Card
from steer.models.policy import load_policy
from steer.settings import check

GRACE = 10  # seconds that running requests have when the server stops


def serve_command(config: ServeConfig) -> str:
    """Serve until interrupted; return the summary line."""
    check(config)
    try:
        import uvicorn

        from steer.serve.answer import Service
        from steer.serve.api import application
        from steer.serve.engine import DecoderThread
    except ImportError as error:
        raise SteerError(f'serving needs more packages ({error.name}). Run: pip install "steer-lm[serve]"') from None
    key = config.api_key or os.environ.get("STEER_API_KEY", "")
    if not _local(config.host) and not key:
        raise SteerError(f"--host {config.host}: others could use the model. Give --api-key or set STEER_API_KEY.")
    name = config.name or Path(config.policy).resolve().name
    if "@" in name:
        raise SteerError(f"--name {name}: what follows an '@' is a target. Choose another name.")
    listening = bound(config.host, config.port)
    with listening:
        scorer = load_scorer(config.scorer) if config.scorer else None
        if scorer and scorer.model is None:
            raise SteerError(f"--scorer {config.scorer}: nobody has rated fresh responses. Use a fitted scorer.")
        _check_scorer(config, scorer)
        policy = load_policy(config.policy, dtype=config.dtype, trust_remote_code=config.trust_remote_code)
        if not shareable(policy):
            raise SteerError(f"{policy.name}: keeps more than keys and values, so requests cannot share a batch.")
        policy = replace(policy, name=name)  # errors that clients read do not name folders of this machine
        engine = DecoderThread(policy, config.batch_size)
        service = Service(policy, engine, config, name, scorer)
        hosts = {"localhost", "127.0.0.1", "::1", config.host} if _local(config.host) else set()
        quit_quietly()
        server = uvicorn.Server(
            uvicorn.Config(application(service, key, hosts), log_level="warning", timeout_graceful_shutdown=GRACE)
        )
        engine.start()
        host, port = listening.getsockname()[:2]
        where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        click.echo(f"steer serve: {name} at {where} (page: {where}/, API: {where}/v1). Stop with Ctrl-C.")
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        finally:
            engine.stop()
    return f"serve: {sum(service.requests.values())} requests answered, {engine.tokens} tokens drawn."


def _check_scorer(config: ServeConfig, scorer: Scorer | None) -> None:
    """Refuse a scorer that scores none of the policy's attributes."""
    folder = Path(config.policy)
    card = Card.load(folder) if (folder / "steer.json").is_file() else None
    if card and card.attributes and scorer and not {*card.attributes} & {*scorer.attributes}:
        raise SteerError(
            f"--scorer {config.scorer}: scores {', '.join(scorer.attributes)}, none of {', '.join(card.attributes)}, "
            "which this policy was conditioned on. Use the scorer that labelled its rows."
        )


def quit_quietly() -> None:
    """Ignore the signal that uvicorn raises again when it is done, so that the last line is printed."""
    signal.signal(signal.SIGTERM, lambda *_: None)


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
