"""Fixtures that several files share: real input, a tiny model, a small labelled world."""

from __future__ import annotations

import os
import tempfile

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ["STEER_CACHE"] = tempfile.mkdtemp(prefix="steer-tests-")

import http.client
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.request import Request, urlopen

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from data_recipes import world_model
from steer.config.labelling import LabelConfig
from steer.config.rows import DataConfig
from steer.config.training import TrainConfig
from steer.labelling.command import label_command
from steer.methods.base import Candidates, Method
from steer.models.policy import Policy, load_policy
from steer.progress import note_once
from steer.rows.command import data_command
from steer.serve.answer import Service
from steer.serve.engine import DecoderThread
from steer.serve.server import open_server
from steer.serve.settings import ServeSettings
from steer.training.command import train_command
from steer.training.loop import Loop

if TYPE_CHECKING:
    from openai import OpenAI

torch.set_num_threads(1)
HANG = 600.0  # seconds after which what is waited for hangs: no test measures time
settings.register_profile(
    "anywhere", deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("anywhere")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = Path(__file__).with_name("golden.json")


@pytest.fixture(autouse=True)
def _unsaid() -> None:
    """Let every test hear what a process says once."""
    note_once.cache_clear()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and models beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED.name}/ beside the repository: real input is tested where it is")
    return SHARED


LONGEST = ("dial", "train", "rounds", "readme", "iterate", "export", "label", "real", "data", "world")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first: one that began last would leave the other cores idle."""
    places = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


def pytest_unconfigure() -> None:
    """Remove the cache of this process."""
    shutil.rmtree(os.environ["STEER_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server of this machine that speaks S3."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty store that speaks S3, with a bucket `bucket`; its address and credentials are in the environment."""
    import fsspec

    for name, value in {"ENDPOINT_URL": s3_server, "ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # else each error is waited for
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # where credentials are looked for last
    urlopen(Request(f"{s3_server}/moto-api/reset", method="POST")).close()
    store = fsspec.filesystem("s3", skip_instance_cache=True)
    type(store).clear_instance_cache()  # those of other tests
    store.mkdir("bucket")
    return store


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the embedded world, small enough for a test: hidden size 32, 2 layers."""
    folder = tmp_path_factory.mktemp("tiny")
    world_model.save(folder, hidden_size=32, layers=2)
    return folder


@pytest.fixture
def published(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], None]:
    """Publish a commit of org/toy in the cache of a hub that cannot be reached; each has weights of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place = tmp_path / "hub" / "models--org--toy"

    def publish(commit: str, scale: float) -> None:
        policy = load_policy(str(tiny))
        with torch.no_grad():
            policy.model.get_output_embeddings().weight.mul_(scale)
        policy.model.save_pretrained(place / "snapshots" / commit)
        policy.tokenizer.save_pretrained(place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)

    publish("1" * 40, 1.0)
    return publish


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows of the embedded world with the levels of their exact scores."""
    folder = tmp_path_factory.mktemp("world")
    data_command(DataConfig("world", str(folder / "logs"), size=300, seed=1))
    gold = "data_recipes.world_text:Gold"
    label_command(LabelConfig(str(folder / "logs"), str(folder / "labels"), scorer=gold, min_support=1))
    return folder / "labels"


@pytest.fixture(scope="session")
def base(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with larger weights: where gradients vanish, Adam would make steps of rounding errors."""
    policy = load_policy(str(tiny))
    with torch.no_grad():
        for p in policy.model.parameters():
            p.mul_(3 if p.ndim == 2 else 1)
    folder = tmp_path_factory.mktemp("base")
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def trained(labels: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional policy that has learned at least to end its responses."""
    folder = tmp_path_factory.mktemp("conditional")
    train_command(TrainConfig(str(labels), str(base), str(folder), adapter="none", learning_rate=1e-2, max_steps=60))
    return folder


@pytest.fixture(scope="session")
def policy(trained: Path) -> Policy:
    """The same, loaded; tests leave it as it is."""
    return load_policy(str(trained))


def stopped(asked: TrainConfig, at: int) -> None:
    """Train until the step `at`, counted from 0, begins."""

    def step(self: Loop, *inputs: Any) -> Any:
        if inputs[2] == at:
            raise KeyboardInterrupt
        return whole(self, *inputs)

    whole = Loop._step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            train_command(asked)


class Served(NamedTuple):
    """A server in a thread of this process, on a port of its own."""

    url: str
    port: int
    service: Service


@contextmanager
def serving(policy: Policy, **more: Any) -> Iterator[Served]:
    """Serve a policy over loopback while the block runs; `more` are settings of `steer serve`."""
    key = more.pop("api_key", "")
    with open_server(policy, ServeSettings(name="policy", **more), port=0, key=key) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield Served(server.url, server.port, server.service)
        finally:
            server.stop()
            thread.join()


@contextmanager
def dawdling(engine: DecoderThread) -> Iterator[None]:
    """After 20 steps each waits a second until rows are freed or the engine is stopped: nobody interrupts too late."""
    steps, interrupted, step = 0, threading.Event(), engine.decoder.step

    def slow() -> Any:
        nonlocal steps
        steps += 1
        if steps > 20:
            interrupted.wait(1)
        return step()

    def interrupting(whole: Callable[..., None]) -> Callable[..., None]:
        def noted(*given: Any) -> None:
            interrupted.set()
            whole(*given)

        return noted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.decoder, "step", slow)
        for name in ("free", "stop"):
            patch.setattr(engine, name, interrupting(getattr(engine, name)))
        yield


@pytest.fixture(scope="session")
def served(policy: Policy) -> Iterator[Served]:
    """A server that several tests share; it scores with the exact figures of the world."""
    more = {"max_new_tokens": 40, "timeout": HANG, "max_body": 100_000}
    with serving(policy, scorer="data_recipes.world_text:Gold", **more) as found:
        yield found


ASK: Any = [{"role": "user", "content": "tell me about bees and cows for my song."}]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[OpenAI]:
    """OpenAI's own client of the shared server; it does not try again."""
    import openai

    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0, timeout=HANG) as found:
        yield found


def send(served: Served, path: str, body: Any = None, headers: Any = None, method: str = "") -> tuple[int, Any]:
    """Status and body of one request; text bodies are sent as they are."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=HANG)
    data_command = body if body is None or isinstance(body, bytes | str) else json.dumps(body)
    data_command = data_command.encode() if isinstance(data_command, str) else data_command
    connection.request(method or ("GET" if body is None else "POST"), path, data_command, headers or JSON)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, json.loads(text) if answer.headers["content-type"] == "application/json" else text


def raw_request(body: Any) -> bytes:
    """A request for chat as bytes, for clients that misbehave."""
    data_command = json.dumps({"model": "policy", "messages": ASK, **body}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data_command)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + data_command


def until(true: Callable[[], bool]) -> None:
    """Wait for another thread or process to get there."""
    end = time.monotonic() + HANG
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs: one that ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def family(pid: int) -> list[tuple[int, str]]:
    """The processes below one, with their commands."""
    below = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):  # it ended just now
            for child in map(int, (thread / "children").read_text().split()):
                below += [(child, Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")), *family(child)]
    return below


def calls(work: Callable[[], Any]) -> int:
    """How many functions are called in this thread: what work costs, alike on all machines."""
    count = 0

    def seen(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def mean(method: Method, logps: Tensor, c: Candidates, **settings: Any) -> float:
    """A method's loss over all that counts, as training divides it."""
    return float(method.total(logps, c, method.settings(**settings)).detach() / method.counted(c.mask).sum())


class Golden(NamedTuple):
    """Three prompts with four candidates, and what official implementations say of them."""

    logps: Tensor
    candidates: Candidates
    official: dict[str, Any]

    def of(self, count: int) -> tuple[Tensor, Candidates]:
        """The first candidates of each prompt."""
        c = self.candidates
        assert c.ref is not None
        return self.logps[:, :count], Candidates(c.mask[:, :count], c.reward[:, :count], c.ref[:, :count])


@pytest.fixture
def golden() -> Golden:
    """Inputs and numbers that official repositories of the methods printed; log-probs outside the mask are junk."""
    said = json.loads(GOLDEN.read_text())
    logps, ref, reward = (
        torch.tensor(said["inputs"][name], dtype=torch.float64) for name in ("logps", "ref_logps", "rewards")
    )
    mask = torch.tensor(said["inputs"]["mask"]).bool()
    return Golden(logps, Candidates(mask, reward, (ref * mask).sum(-1)), said["official"])
