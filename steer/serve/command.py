"""`steer serve`: a policy as an OpenAI-compatible API, drawn in one running batch, and the page with the sliders."""

from __future__ import annotations

import os
import signal

import click

from steer import addresses
from steer.config.serve import ServeConfig
from steer.errors import SteerError
from steer.settings import check


def serve_command(config: ServeConfig) -> str:
    """Serve until interrupted; return the summary line."""
    check(config)
    config = addresses.local(config)
    try:
        from steer.serve.server import open_server
    except ImportError as error:
        raise SteerError(f'serving needs more packages ({error.name}). Run: pip install "steer-lm[serve]"') from None
    key = config.api_key or os.environ.get("STEER_API_KEY", "")
    with open_server(config.policy, config, host=config.host, port=config.port, key=key) as server:
        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when it is done: print the last line
        url, service = server.url, server.service
        click.echo(f"steer serve: {service.name} at {url} (page: {url}/, API: {url}/v1). Stop with Ctrl-C.")
        server.run()
    return f"serve: {sum(service.requests.values())} requests answered, {service.engine.tokens} tokens drawn."
