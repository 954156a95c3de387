"""`steer serve`: a policy behind OpenAI's API, drawn in one running batch, and the page with the sliders."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import re
import signal
import socket
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from steer.config import ServeConfig
from steer.errors import SteerError
from steer.generation.prefill import shareable
from steer.labelling.scorer import Scorer, load_scorer
from steer.models.card import Card
from steer.models.policy import load_policy
from steer.settings import check

GRACE = 10  # seconds that running requests have when the server is told to stop


def serve_command(config: ServeConfig) -> str:
    """Serve until told to stop; the last line says what was done."""
    check(config)
    try:
        import uvicorn

        from steer.serve.answer import Service
        from steer.serve.engine import DecoderThread
    except ImportError as error:
        raise SteerError(f'serving needs more packages ({error.name}). Run: pip install "steer-lm[serve]"') from None
    key = config.api_key or os.environ.get("STEER_API_KEY", "")
    if not _local(config.host) and not key:
        raise SteerError(f"--host {config.host}: others could use the model. Give --api-key or set STEER_API_KEY.")
    name = config.name or Path(config.policy).resolve().name
    if "@" in name:
        raise SteerError(f"--name {name}: what stands behind an '@' is a target. Choose another name.")
    listening = bound(config.host, config.port)
    with listening:
        scorer = load_scorer(config.scorer) if config.scorer else None
        if scorer and scorer.model is None:
            raise SteerError(f"--scorer {config.scorer}: nobody has rated fresh responses. Use a fitted scorer.")
        _fitting(config, scorer)
        policy = load_policy(config.policy, dtype=config.dtype, trust_remote_code=config.trust_remote_code)
        if not shareable(policy):
            raise SteerError(f"{policy.name}: keeps more than keys and values, so requests cannot share a batch.")
        policy = replace(policy, name=name)  # errors that clients read do not name folders of this machine
        engine = DecoderThread(policy, config.batch_size)
        service = Service(policy, engine, config, name, scorer)
        quit_quietly()
        server = uvicorn.Server(
            uvicorn.Config(application(service, key), log_level="warning", timeout_graceful_shutdown=GRACE)
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


def _fitting(config: ServeConfig, scorer: Scorer | None) -> None:
    """Refuse a scorer that knows none of the attributes that can be asked for."""
    folder = Path(config.policy)
    card = Card.load(folder) if (folder / "steer.json").is_file() else None
    if card and card.attributes and scorer and not {*card.attributes} & {*scorer.attributes}:
        raise SteerError(
            f"--scorer {config.scorer}: scores {', '.join(scorer.attributes)}, none of {', '.join(card.attributes)}, "
            "which this policy was conditioned on. Use the scorer that labelled its rows."
        )


def application(service: Any, key: str) -> Any:
    """The application behind its gate."""
    from steer.serve.api import create
    from steer.serve.gate import Gate

    page = files("steer.serve").joinpath("page.html").read_text(encoding="utf-8")
    config = service.config
    hosts = {"localhost", "127.0.0.1", "::1", config.host} if _local(config.host) else set()
    return Gate(
        create(service, page, page_policy(page)),
        key=key,
        most=config.max_body,
        hosts=hosts,
        told=service,
    )


def page_policy(page: str) -> str:
    """The content security policy of the page: its own script and style, its own server, nothing else."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(x.encode()).digest()).decode()}'" for x in found)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def quit_quietly() -> None:
    """uvicorn raises the signal that stopped it once more when it is done; that must not kill the last line."""
    signal.signal(signal.SIGTERM, lambda *_: None)


def _local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; taken before the model is loaded, so that a port in use is told at once."""
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
