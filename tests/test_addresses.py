"""Object stores, by address: what a stage reads and writes there is what it reads and writes in folders."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from stores import Flat, Hub, hub
from test_growth import RECORDS, put

from steer.addresses import _store, fetched, is_address
from steer.comparison.command import compare_command
from steer.config.comparison import CompareConfig
from steer.config.demo import DemoConfig
from steer.config.generation import GenerateConfig
from steer.config.labelling import FitConfig, LabelConfig
from steer.config.rows import DataConfig
from steer.config.training import TrainConfig
from steer.demo import demo
from steer.errors import SteerError
from steer.generation.command import generate_command
from steer.labelling.command import fit_command, label_command
from steer.labelling.label import label
from steer.labelling.scorer import load_scorer
from steer.models.policy import load_policy
from steer.rows import read_rows, write_rows
from steer.rows.command import data_command
from steer.run_folder import files_in, read_json
from steer.training.command import train_command

RATED = [{"prompt": f"What is {i}?", "response": "word " * (i % 7) + "end.", "quality": i % 7} for i in range(60)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this machine."""
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


STORES = {"memory": "memory://bucket", "s3": "s3://bucket", "gs": "gs://bucket", "az": "az://bucket"}
STORES |= {"hf": "hf://datasets/me/bucket"}  # by scheme, the address of a bucket
# Variables that name an emulator of this machine: where they do, its store is in place of the stand-in.
EMULATORS = {"gs": "STORAGE_EMULATOR_HOST", "az": "AZURE_STORAGE_CONNECTION_STRING"}


@pytest.fixture(params=STORES)
def bucket(request: pytest.FixtureRequest, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty store by its scheme: in memory, a server of this machine, or a stand-in."""
    if request.param in ("s3", "hf"):
        yield request.getfixturevalue(request.param)
        return
    if "127.0.0.1" in os.environ.get(EMULATORS.get(request.param, ""), ""):
        store = fsspec.filesystem(request.param)
        with suppress(FileNotFoundError):
            store.rm("bucket", recursive=True)
        with suppress(OSError, ValueError):
            store.mkdir("bucket")
        yield store
        return
    if request.param != "memory":
        protocols, silent = {"gs": (("gs", "gcs"), False), "az": (("abfs", "az", "abfss"), True)}[request.param]
        kind = type("Store", (Flat,), {"protocol": protocols, "silent": silent, "buckets": {"bucket": {}}})
        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, request.param, kind)
        yield fsspec.filesystem(request.param)
        return
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield store
    store.store.clear()


@pytest.fixture
def the_hub() -> Iterator[Hub]:
    """A hub of this machine, with an empty data set `me/bucket`."""
    with hub() as server:
        yield server


@pytest.fixture
def hf(the_hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The data sets of `me` at the hub of this machine, as a store of buckets."""
    from huggingface_hub import HfFileSystem, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": the_hub.address})
    HfFileSystem.clear_instance_cache()
    return Owned("datasets/me", fsspec.filesystem("hf"))


class Owned(DirFileSystem):  # type: ignore[misc]
    """The repositories of one owner, as buckets."""

    def invalidate_cache(self, path: str | None = None) -> None:
        self.fs.invalidate_cache()


def root_of(store: Any) -> str:
    """The address of the bucket."""
    protocols = {store.protocol, *store.protocol}
    return next((address for scheme, address in STORES.items() if scheme in protocols), STORES["hf"])


def filled(store: Any, tmp_path: Path, records: Any = None) -> str:
    """Put a log into the bucket; return its address."""
    store.put_file(put(tmp_path / "log.jsonl", records or RECORDS), "bucket/log.jsonl")
    return f"{root_of(store)}/log.jsonl"


def names(store: Any, folder: str) -> list[str]:
    """The names of all files in a folder of the bucket."""
    store.invalidate_cache()
    return sorted(path.partition(f"{folder}/")[2] for path in store.find(f"bucket/{folder}"))


def content(store: Any, path: str) -> bytes:
    """The content of a file, as it is now."""
    store.invalidate_cache()
    return bytes(store.cat_file(path))


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_stages_read_and_write_at_addresses(form: str, bucket: Any, tmp_path: Path) -> None:
    root, how = root_of(bucket), {"output_shards": 2, "output_format": form}
    log = filled(bucket, tmp_path)
    here = [str(tmp_path / name) for name in ("data", "labels")]
    data_command(DataConfig(str(tmp_path / "log.jsonl"), here[0], **how))
    label_command(LabelConfig(here[0], here[1], scorer="countable:words", **how))
    said = data_command(DataConfig(log, f"{root}/data", **how))
    label_command(LabelConfig(f"{root}/data/", f"{root}/labels", scorer="countable:words", **how))
    assert said.endswith("held out.")
    assert read_rows(f"{root}/data") == read_rows(here[0])
    for folder, name in zip(here, ("data", "labels")):
        assert names(bucket, name) == sorted(path.name for path in Path(folder).iterdir() if path.is_file())
        for path in (*Path(folder).glob("rows-*"), *Path(folder).glob("schema.json")):
            assert content(bucket, f"bucket/{name}/{path.name}") == path.read_bytes()
        assert str(tmp_path).encode() not in content(bucket, f"bucket/{name}/config.json"), "addresses, no copies"


def test_processes_that_this_one_starts_name_addresses_too(bucket: Any, tmp_path: Path) -> None:
    copy = fetched(address := filled(bucket, tmp_path))
    program = "import sys; from steer.addresses import named; print(named(sys.argv[1]))"
    out = subprocess.run([sys.executable, "-c", program, copy], check=True, capture_output=True, text=True).stdout
    assert out == f"{address}\n" != f"{copy}\n", "a training that is launched has the same settings as one here"


def test_folders_are_made_in_a_store_of_folders(cache: Path, tmp_path: Path) -> None:
    data_command(DataConfig(put(tmp_path / "log.jsonl"), f"file://{tmp_path}/store/a/data"))
    data_command(DataConfig(f"file://{tmp_path}/store/a/data", f"file://{tmp_path}/store/b", output_format="parquet"))
    assert len(read_rows(tmp_path / "store" / "b")) == len(read_rows(tmp_path / "store" / "a" / "data")) == 7


@pytest.mark.parametrize("bucket", ["memory", "s3", "hf"], indirect=True)
def test_a_scorer_is_fitted_to_an_address_and_scores_from_there(bucket: Any, tmp_path: Path) -> None:
    root, log = root_of(bucket), filled(bucket, tmp_path, RATED)
    fit_command(FitConfig(str(tmp_path / "log.jsonl"), str(tmp_path / "scorer")))
    said = fit_command(FitConfig(log, f"{root}/scorer"))
    assert said.endswith(f"Scorer in {root}/scorer.")
    assert load_scorer(f"{root}/scorer").id == load_scorer(str(tmp_path / "scorer")).id
    label_command(LabelConfig(log, str(tmp_path / "one"), scorer=str(tmp_path / "scorer"), shard_size=20))
    several = 2 if root.startswith("s3") else 1  # no other process sees the others
    label_command(LabelConfig(log, f"{root}/two", scorer=f"{root}/scorer", shard_size=20, num_proc=several))
    assert content(bucket, "bucket/two/rows.jsonl") == (tmp_path / "one" / "rows.jsonl").read_bytes()
    assert f'"spec": "{root}/scorer"'.encode() in content(bucket, "bucket/two/done.json")
    assert str(tmp_path).encode() not in b"".join(content(bucket, path) for path in bucket.find("bucket/scorer"))


@pytest.mark.parametrize("bucket", ["s3", "hf"], indirect=True)
def test_a_policy_is_trained_to_an_address_and_draws_from_there(
    bucket: Any, labels: Path, base: Path, tmp_path: Path
) -> None:
    root, drawing = root_of(bucket), {"limit": 3, "max_new_tokens": 8}
    bucket.put(str(labels), "bucket/labels", recursive=True)
    training: dict[str, Any] = {"adapter": "lora", "max_steps": 2, "save_steps": 1}
    train_command(TrainConfig(f"{root}/labels", str(base), f"{root}/policy", **training))
    train_command(TrainConfig(str(labels), str(base), str(tmp_path / "policy"), **training))
    assert names(bucket, "policy") == sorted(path.name for path in (tmp_path / "policy").iterdir())
    weights = "adapter_model.safetensors"
    assert content(bucket, f"bucket/policy/{weights}") == (tmp_path / "policy" / weights).read_bytes()
    assert load_policy(f"{root}/policy").schema == load_policy(str(tmp_path / "policy")).schema
    generate_command(GenerateConfig(f"{root}/policy", input=f"{root}/labels", output=f"{root}/drawn", **drawing))
    generate_command(
        GenerateConfig(str(tmp_path / "policy"), input=str(labels), output=str(tmp_path / "drawn"), **drawing)
    )
    assert content(bucket, "bucket/drawn/rows.jsonl") == (tmp_path / "drawn" / "rows.jsonl").read_bytes()


def test_what_changed_is_fetched_again_and_what_did_not_is_not(
    bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = []
    for number, records in enumerate((RECORDS, RECORDS, RECORDS[:1])):
        address = filled(bucket, tmp_path, records) if number != 1 else f"{root_of(bucket)}/log.jsonl"
        data_command(DataConfig(address, str(tmp_path / str(number))))
        counts.append((len(read_rows(tmp_path / str(number))), capsys.readouterr().err.count("steer: fetch ")))
    assert counts == [(7, 1), (7, 0), (1, 1)]


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_folders_kept_as_files_of_no_bytes_are_no_rows(bucket: Any, tmp_path: Path) -> None:
    filled(bucket, tmp_path, RATED)
    bucket.call_s3("put_object", Bucket="bucket", Key="logs/", Body=b"")
    bucket.copy("bucket/log.jsonl", "bucket/logs/log.jsonl")
    data_command(DataConfig(f"{root_of(bucket)}/logs", str(tmp_path / "data")))
    assert len(read_rows(tmp_path / "data")) == len(RATED)
    bucket.call_s3("put_object", Bucket="bucket", Key="data/", Body=b"")
    data_command(DataConfig(f"{root_of(bucket)}/logs", f"{root_of(bucket)}/data"))
    assert names(bucket, "data") == ["", "config.json", "done.json", "rows.jsonl"]


def test_a_finished_output_is_not_made_again(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(filled(bucket, tmp_path), f"{root_of(bucket)}/data")
    first = data_command(config)
    bucket.rm("bucket/data/rows.jsonl")
    assert data_command(config) == first
    assert "rows.jsonl" in names(bucket, "data"), "but sent again"
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "of another machine"))
    monkeypatch.setattr("steer.rows.command.surveyed", lambda *_: pytest.fail("the work is done"))
    assert data_command(config) == first
    assert names(bucket, "data") == ["config.json", "done.json", "rows.jsonl"]


def test_a_machine_that_only_saw_a_finished_output_makes_it_when_it_is_gone(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(filled(bucket, tmp_path), f"{root_of(bucket)}/data")
    first = data_command(config)
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "of another machine"))
    assert data_command(config) == first
    rows = content(bucket, "bucket/data/rows.jsonl")
    for name in names(bucket, "data"):
        bucket.rm(f"bucket/data/{name}")
    assert data_command(config) == first
    assert content(bucket, "bucket/data/rows.jsonl") == rows


def test_shards_of_a_store_meet_in_the_cache(
    bucket: Any, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how: dict[str, Any] = {"scorer": "countable:words", "shard_size": 2, "min_support": 1}
    label_command(LabelConfig(log := put(tmp_path / "log.jsonl"), str(tmp_path / "one"), **how))
    for shard in ("1/2", "2/2"):
        assert not bucket.exists("bucket/labels/done.json")
        said = label_command(LabelConfig(log, f"{root_of(bucket)}/labels", shard=shard, **how))
        assert (f'writes the rows to "{root_of(bucket)}/labels"' in said) == (shard == "1/2")
        assert f"the shards meet in {cache / 'outputs'}" in capsys.readouterr().err
    assert content(bucket, "bucket/labels/rows.jsonl") == (tmp_path / "one" / "rows.jsonl").read_bytes()


class Failing:
    """A store of which one method fails."""

    def __init__(self, name: str, method: Any) -> None:
        self.found, self.name, self.method = _store, name, method

    def __call__(self, address: str) -> tuple[Any, str]:
        """Stand for `addresses._store`."""
        self.store, path = self.found(address)
        return self, path

    def __getattr__(self, name: str) -> Any:
        """Return what the store has."""
        return self.method if name == self.name else getattr(self.store, name)


@pytest.mark.parametrize("bucket", ["memory", "s3", "gs", "az"], indirect=True)
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), ConnectionError("the server is gone")])
def test_what_is_sent_in_part_is_not_taken_for_whole_and_is_sent_by_the_same_command(
    stop: BaseException, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, shards = root_of(bucket), {"output_shards": 3}
    config = DataConfig(filled(bucket, tmp_path), f"{root}/data", **shards)

    def put_file(here: str, there: str) -> None:
        if "rows-00001" in there:
            raise stop
        bucket.put_file(here, there)

    problem = f"{root}/data: cannot be written .the server is gone.*the same command sends it" if stop.args else "^$"
    with monkeypatch.context() as patch:
        patch.setattr("steer.addresses._store", Failing("put_file", put_file))
        with pytest.raises((SteerError, KeyboardInterrupt), match=problem):
            data_command(config)
    assert names(bucket, "data") == ["config.json", "rows-00000-of-00003.jsonl"]
    with pytest.raises(SteerError, match=f"{root}/data: is not finished"):
        label_command(LabelConfig(f"{root}/data", str(tmp_path / "labels"), scorer="countable:words"))
    with monkeypatch.context() as patch:
        patch.setattr("steer.rows.command.surveyed", lambda *_: pytest.fail("the work is done"))
        data_command(config)
    data_command(DataConfig(str(tmp_path / "log.jsonl"), str(tmp_path / "data"), **shards))
    for path in (tmp_path / "data").glob("rows-*"):
        assert content(bucket, f"bucket/data/{path.name}") == path.read_bytes()


def test_what_is_fetched_in_part_is_not_taken_for_whole(
    bucket: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = filled(bucket, tmp_path)

    def blocks() -> Iterator[bytes]:
        yield b'{"prompt": "half'
        raise TimeoutError("no answer")

    def dying(*_: str) -> Any:
        left = blocks()
        return nullcontext(SimpleNamespace(read=lambda _: next(left)))

    with monkeypatch.context() as patch:
        patch.setattr("steer.addresses._store", Failing("open", dying))
        with pytest.raises(SteerError, match=rf"{address}: cannot be read \(no answer\)"):
            data_command(DataConfig(address, str(tmp_path / "data")))
    assert not files_in(cache)
    data_command(DataConfig(address, str(tmp_path / "data")))
    assert len(read_rows(tmp_path / "data")) == 7


def test_another_run_at_an_address_is_refused_and_overwritten_whole(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, output = filled(bucket, tmp_path), f"{root_of(bucket)}/data"
    data_command(DataConfig(log, output, output_shards=3))
    before = {name: content(bucket, f"bucket/data/{name}") for name in names(bucket, "data")}
    for machine in ("cache", "of another machine"):
        monkeypatch.setenv("STEER_CACHE", str(tmp_path / machine))
        with pytest.raises(SteerError, match=rf"{output}: holds a run with other settings \(output_shards\)"):
            data_command(DataConfig(log, output, output_shards=2))
    data_command(DataConfig(log, output, output_shards=2, overwrite=True))
    assert names(bucket, "data") == [
        *("config.json", "done.json", "rows-00000-of-00002.jsonl", "rows-00001-of-00002.jsonl")
    ]
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SteerError, match=f"{output}: holds a run with other settings than the one that this machine"):
        data_command(DataConfig(log, output, output_shards=3))
    data_command(DataConfig(log, output, output_shards=3, overwrite=True))
    assert {name: content(bucket, f"bucket/data/{name}") for name in names(bucket, "data")} == before


def test_an_address_with_other_things_is_left_alone(bucket: Any, tmp_path: Path) -> None:
    root, log = root_of(bucket), filled(bucket, tmp_path)
    data_command(DataConfig(log, f"{root}/data"))
    for output, overwrite, problem in (
        (root, False, "holds files that are no run of steer"),
        (root, True, "holds files that are no run of steer"),
        (log, True, "is a file"),
        (f"{root}/data", True, "--overwrite would remove its own rows"),
    ):
        with pytest.raises(SteerError, match=f"^{output}: {problem}"):
            label_command(LabelConfig(f"{root}/data", output, scorer="countable:words", overwrite=overwrite))
    assert names(bucket, "data") == ["config.json", "done.json", "rows.jsonl"]
    data_command(DataConfig(log, f"{root}/dat"))  # no part of the name is the name


def test_addresses_that_cannot_be_used_are_said(bucket: Any, tmp_path: Path) -> None:
    root, log = root_of(bucket), put(tmp_path / "log.jsonl")
    for source, problem in ((f"{root}/no.jsonl", "no such file"), ("nowhere://x/y", "cannot be opened")):
        with pytest.raises(SteerError, match=f"{source}: {problem}"):
            data_command(DataConfig(source, str(tmp_path / "out")))
    address = filled(bucket, tmp_path, [{"prompt": "a"}])
    with pytest.raises(SteerError, match=f"^{address}:1: "):  # and not of its copy
        data_command(DataConfig(address, str(tmp_path / "out")))
    bucket.pipe_file("bucket/half/config.json", b'{"inp')
    with pytest.raises(SteerError, match=f"{root}/half: holds files that are no run of steer"):
        data_command(DataConfig(log, f"{root}/half"))
    with pytest.raises(SteerError, match=f"{root}/.*: only the commands data, label, generate, fit and train write"):
        compare_command(CompareConfig(log, "model", f"{root}/comparison"))
    with pytest.raises(SteerError, match=f"{root}/.*: only the commands data, label, generate, fit and train write"):
        demo(DemoConfig(f"{root}/demo"))
    with pytest.raises(SteerError, match=f"^{root}/rows.jsonl: only the commands"):
        write_rows(RATED, f"{root}/rows.jsonl")
    with pytest.raises(SteerError, match=f"^{root}/labels: only the commands"):
        label(RATED, scorer="countable:words", folder=f"{root}/labels")
    for settings in ({"model": address}, {"model": "m", "base": (address,)}):
        with pytest.raises(SteerError, match=f"{address}: is not read from a store. Copy it to this machine first"):
            compare_command(CompareConfig(log, output=str(tmp_path / "out"), **settings))
    assert not (tmp_path / "out").exists()
    assert [is_address(text) for text in ("s3://a/b", "hf:a/b", "C:/x", "-", "a://", 3)] == [True, *[False] * 5]


@pytest.mark.parametrize(
    ("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs"), ("hf", "huggingface_hub")]
)
def test_the_package_that_a_store_needs_is_named(scheme: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    address = f"{scheme}://datasets/me/log.jsonl"
    with pytest.raises(SteerError, match=rf'^{address}: cannot be opened \(.*\)\. Run "pip install {package}"\.$'):
        fetched(address)


@pytest.mark.parametrize("bucket", ["gs", "az"], indirect=True)
def test_a_bucket_that_is_not_there_is_not_made(bucket: Any, tmp_path: Path) -> None:
    absent = root_of(bucket).replace("bucket", "absent")
    with pytest.raises(SteerError, match=f"^{absent}/x.jsonl: no such file or folder. Check the address.$"):
        data_command(DataConfig(f"{absent}/x.jsonl", str(tmp_path / "out")))
    with pytest.raises(SteerError, match=f"^{absent}/data: no such file or folder.*Check the address."):
        data_command(DataConfig(put(tmp_path / "log.jsonl"), f"{absent}/data"))
    bucket.invalidate_cache()
    assert not bucket.exists("absent")


def test_without_credentials_no_package_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise ValueError("Must provide an account_name")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refused)
    problem = r"az://a/b: cannot be opened \(Must provide an account_name\). Check the address, the credentials"
    with pytest.raises(SteerError, match=f"^{problem} and the permissions.$"):
        fetched("az://a/b")


def test_the_hub_takes_few_commits_and_the_last_one_says_that_all_is_there(
    hf: Any, the_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, output = filled(hf, tmp_path), f"{root_of(hf)}/data"
    the_hub.commits.clear()
    data_command(DataConfig(log, output, output_shards=3))
    shards = [f"data/rows-0000{i}-of-00003.jsonl" for i in range(3)]
    assert the_hub.commits == [["data/config.json", *shards, "data/done.json"]]
    monkeypatch.setattr("steer.addresses.COMMIT", 2)
    data_command(DataConfig(log, output, output_shards=1, overwrite=True))
    removed, written = the_hub.commits[1:4], the_hub.commits[4:]
    assert removed == [["data/done.json", "data/config.json"], shards[:2], shards[2:]], "nobody takes it for whole"
    assert written == [["data/config.json", "data/rows.jsonl"], ["data/done.json"]]


@pytest.mark.parametrize(
    "repository", ["datasets/me/bucket", "datasets/me/bucket@main", "me/bucket", "models/me/bucket"]
)
@pytest.mark.usefixtures("hf")
def test_a_repository_of_the_hub_is_an_address_too(repository: str, the_hub: Hub, tmp_path: Path) -> None:
    output = f"hf://{repository}"
    for shards in (2, 1):
        data_command(DataConfig(put(tmp_path / "log.jsonl"), output, output_shards=shards, overwrite=shards == 1))
        assert len(read_rows(output)) == 7
    assert sorted(the_hub.repositories["bucket"]) == [".gitattributes", "config.json", "done.json", "rows.jsonl"]


def test_what_the_hub_refuses_is_said(hf: Any, the_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, others = put(tmp_path / "log.jsonl"), "hf://datasets/me/others"
    absent = r"no such file or folder \(repository not found\. If the repo is private, .*\)\. Check the address\."
    config = DataConfig(log, f"{root_of(hf)}/data")
    the_hub.refuses = 429
    with pytest.raises(SteerError, match=r"data: cannot be written \(.*429.*the rate limit.*the same command sends it"):
        data_command(config)
    assert names(hf, "data") == []
    the_hub.refuses = 0
    monkeypatch.setattr("steer.rows.command.surveyed", lambda *_: pytest.fail("no work is done"))
    data_command(config)
    assert names(hf, "data") == ["config.json", "done.json", "rows.jsonl"]
    for again in (DataConfig(f"{others}/x.jsonl", str(tmp_path / "out")), DataConfig(log, f"{others}/data")):
        with pytest.raises(SteerError, match=f"^{others}/.*: {absent}$"):
            data_command(again)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SteerError, match=f"^{others}/x: cannot be opened .Cannot reach .*: offline mode is enabled"):
        fetched(f"{others}/x")


def test_a_cache_that_cannot_be_written_is_said(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").write_text("")
    monkeypatch.setenv("STEER_CACHE", str(tmp_path / "full"))
    with pytest.raises(SteerError, match=r"full/fetched/.*: cannot be written .Not a directory.*STEER_CACHE"):
        data_command(DataConfig(filled(bucket, tmp_path), str(tmp_path / "data")))


def test_what_s3_refuses_is_said(
    s3: Any, s3_server: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(s3, tmp_path)
    here = DataConfig(put(tmp_path / "log.jsonl"), "s3://absent/data")

    def refused(config: DataConfig, problem: str) -> None:
        s3.clear_instance_cache()
        with pytest.raises(SteerError, match=problem):
            data_command(config)

    refused(DataConfig("s3://absent/x.jsonl", str(tmp_path / "out")), "^s3://absent/x.jsonl: no such file or folder")
    refused(DataConfig("s3://absent", str(tmp_path / "out")), "^s3://absent: no such file or folder")
    refused(here, r"^s3://absent/data: no such file or folder \(The specified bucket does not exist\)")
    assert not s3.exists("absent"), "a misspelt bucket is not made"
    there = DataConfig(log, str(tmp_path / "out"))
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        refused(there, f"^{log}: cannot be read .Unable to locate credentials.*credentials")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        refused(there, f"^{log}: cannot be read .Could not connect")
        refused(here, "^s3://absent/data: cannot be read .Could not connect")
    assert not (tmp_path / "out").exists()
    assert read_json(Path(data_of(there)) / "done.json")["rows"] == 7


def data_of(config: DataConfig) -> str:
    """Run a command that was refused before; return its folder."""
    fsspec.filesystem("s3").clear_instance_cache()
    data_command(config)
    return config.output
