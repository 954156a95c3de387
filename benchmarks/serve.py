"""A served policy under load: `python benchmarks/serve.py POLICY`.

64 clients stream for 60 seconds over loopback, each with prompts and targets of its own, and every (greedy) answer is
compared with what the same request gives alone, and with the target that it echoes. Then the same requests are sent one
after the other for as long. Options: --clients 64 --seconds 60 --tokens 48. Prints one table.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from steer.models.card import Card
from steer.rows.schema import Schema

SUBJECTS = ("bees", "cows", "gold", "rome", "beer", "colours", "homes", "lions")


class Case(NamedTuple):
    """A request of its own, and the target that its answer has to name."""

    body: dict[str, Any]
    target: dict[str, str]


class Got(NamedTuple):
    """An answer: text, target echoed, tokens, seconds to the first text and to the end."""

    text: str
    target: dict[str, str]
    tokens: int
    first: float
    seconds: float


def cases(model: str, schema: Schema, names: tuple[str, ...], count: int, tokens: int) -> list[Case]:
    """Distinct requests at single levels of every attribute, all of them supported."""
    aims = [{n: i} for n in names for i in range(len(schema[n].shown)) if schema.count({n: i}) >= schema.minimum]
    out = []
    for i, (aim, subject) in zip(range(count), itertools.cycle(itertools.product(aims, SUBJECTS))):
        shown = {n: schema[n].shown[level] for n, level in aim.items()}
        messages = [{"role": "user", "content": f"tell me about {subject} for my {i}th song."}]
        body = {"model": model, "messages": messages, "targets": shown, "temperature": 0, "max_tokens": tokens}
        out.append(Case({**body, "stream": True, "stream_options": {"include_usage": True}}, shown))
    return out


async def ask(port: int, case: Case) -> Got:
    """One streamed request on a connection of its own."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(case.body).encode()
    head = f"POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + data)
    status = (await reader.readline()).split()[1]
    if status != b"200":
        raise RuntimeError((await reader.read()).decode())
    text, target, tokens, first, done = "", {}, 0, 0.0, False
    async for line in reader:
        if line.startswith(b"data: [DONE]"):
            done = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            tokens = event.get("usage", {}).get("completion_tokens", tokens)
            for choice in event["choices"]:
                text, target = text + choice["delta"].get("content", ""), choice["target"]
                first = first or (time.perf_counter() - began if text else 0.0)
    writer.close()
    if not done:
        raise RuntimeError("a stream ended early")
    return Got(text, target, tokens, first, time.perf_counter() - began)


async def load(port: int, every: list[Case], expected: list[str], seconds: float, clients: int) -> dict[str, Any]:
    """Every client asks its share of the cases in turn until the time is over."""
    end = time.perf_counter() + seconds
    found: list[Got] = []
    errors: list[str] = []
    mixed = 0

    async def client(number: int) -> None:
        nonlocal mixed
        for i in itertools.cycle(range(number, len(every), clients)):
            if time.perf_counter() > end:
                return
            try:
                got = await ask(port, every[i])
            except (OSError, RuntimeError) as error:
                errors.append(str(error))
                continue
            mixed += got.text != expected[i] or got.target != every[i].target
            found.append(got)

    began = time.perf_counter()
    await asyncio.gather(*(client(i) for i in range(clients)))
    took = time.perf_counter() - began
    times, firsts = np.array([g.seconds for g in found]), np.array([g.first for g in found])
    return {
        "requests": len(found),
        "errors": len(errors),
        "mixed up": mixed,
        "requests/s": len(found) / took,
        "tokens/s": sum(g.tokens for g in found) / took,
        "p50 s": float(np.quantile(times, 0.5)),
        "p99 s": float(np.quantile(times, 0.99)),
        "first text p50 s": float(np.quantile(firsts, 0.5)),
        "first text p99 s": float(np.quantile(firsts, 0.99)),
    }


async def measure(port: int, every: list[Case], seconds: float, clients: int) -> None:
    """The answers alone, then both loads, as a table."""
    expected = [(await ask(port, case)).text for case in every]
    print(f"{len(every)} distinct requests, {len(set(expected))} distinct answers")
    together = await load(port, every, expected, seconds, clients)
    one = await load(port, every, expected, seconds, 1)
    print(f"\n| | {clients} clients | one after the other | ratio |\n| --- | --- | --- | --- |")
    for name, value in together.items():
        ratio = f"{value / one[name]:.2f}" if one[name] and name.endswith("/s") else ""
        print(f"| {name} | {value:.6g} | {one[name]:.6g} | {ratio} |")
    good = together["errors"] == together["mixed up"] == one["errors"] == one["mixed up"] == 0
    print(f"\nno error, no answer mixed up: {'yes' if good else 'NO'}")


def main() -> None:
    """Start the server, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy")
    for name, default in (("clients", 64), ("seconds", 60), ("tokens", 48)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    card = Card.load(Path(args.policy))
    if card.schema is None or not card.attributes:
        raise SystemExit(f"{args.policy} is not conditioned.")
    command = [sys.executable, "-m", "steer", "serve", args.policy, "--port", "0", "--name", "policy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().partition("http://127.0.0.1:")[2].partition(" ")[0])
        every = cases("policy", card.schema, card.attributes, 2 * args.clients, args.tokens)
        try:
            asyncio.run(measure(port, every, args.seconds, args.clients))
        finally:
            process.terminate()
    print(f"{platform.machine()}, torch {torch.__version__}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
