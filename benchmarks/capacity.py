"""What each stage costs for a number of rows: tokens, hours, bytes, and what fills up first. Arithmetic, printed.

    python benchmarks/capacity.py --peak 9.9e14 --mfu 0.4 [--rows 1e5 1e7 1e9] [--parameters 8e9] [--prompt 300]
        [--response 300] [--responses 2] [--draws 1] [--scorer 1.5e8] [--epochs 2] [--decode-mfu 0.05] [--memory 512]

Two kinds of numbers go in. *Measured here*, when it is called, on `--sample` rows of random words, as long as you say:
CPU time and bytes per row of `steer data` and `steer label` (counted attributes), and the memory that a row takes in
`steer train`, `iterate`, `compare` and `generate`; what a start costs is left out. *Given by you*: sizes, and the rate
of a GPU, as its peak FLOP/s times a share of it (MFU; decoding reaches far less of it than training). No GPU was ever
at hand here, so no rate of one is measured: an hour of a GPU below is operations divided by your two numbers.

Floating-point operations per token and parameter: 2 to read or draw, 4 to train beside a frozen one (LoRA), 6 to train
it. Attention over long sequences comes on top. What is read, prompts of responses that are drawn too, is computed many
tokens at a time and goes by `--mfu`; what is drawn goes token by token, by `--decode-mfu`. `--responses` of the logs
share a prompt; `--draws` are drawn to each, and it is read once for them.

A round of `iterate` draws to every prompt, scores that, trains on logs and draws, and watches the policy. Watching and
`evaluate` are answers to held-out prompts, read by the policy and by its base and scored; `compare` trains and
evaluates for every run. `fit` reads its own rows, `annotate` a pair of responses to every prompt.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, whatever is installed

from benchmarks.rows import SCORER, measured, prepared, printed

TOKENS_A_WORD = 1.4  # of English prose in a vocabulary of 50,000 or more, about
ID = array("i").itemsize  # bytes of a token id, as `Tokens` keeps it
EPOCHS = 3  # of `steer fit --kind regression`, at most
VERDICT = 10  # tokens of a judge's answer

# What a command itself holds of its rows from beginning to end; scores, 8 bytes each, come on top.
HOLDS = {
    "iterate": """
from steer.config.training import TrainConfig
from steer.iteration.rounds import Rounds
from steer.iteration.settings import IterateSettings
from steer.rows.labelled import Labelled
rows, model = sys.argv[1:]
rounds = Rounds(rows=rows, model=model, scorer="", root=Path(), settings=IterateSettings(), key="", scorers={},
    training=TrainConfig(rows, model, "-"), schema=Labelled.without_rows(rows).schema)
held = rounds.logs, rounds.prompts("train")
print(memory())
""",
    "compare": """
from steer.comparison.comparison import Comparison
from steer.config.comparison import CompareConfig
rows, model = sys.argv[1:]
comparison = Comparison(CompareConfig(rows, model, "-"), Path())
held = comparison.logs, comparison.examination.rows, comparison.examination.court
print(memory())
""",
    "dicts": """
from steer.rows import read_rows
held = read_rows(sys.argv[1])
print(memory())
""",
    "prompts": """
from collections import deque
from itertools import islice
from steer.generation.generate import prompts_in
from steer.generation.requests import Request, seeds
from steer.generation.settings import GenerateSettings
from steer.run_folder import rows_fingerprint
path = Path(sys.argv[1])
held = [Request(row, {}) for row in prompts_in(path, GenerateSettings(), rows_fingerprint(str(path)))]
numbers = seeds(held, 0)
deque(islice(numbers, len(held)), maxlen=0)
print(memory())
""",
    "drawn": """
from types import SimpleNamespace
from steer.generation.drawing import rows_of
from steer.generation.requests import Request, Response
from steer.generation.settings import Sampling
from steer.rows import read, read_back, write_rows
path, policy = Path(sys.argv[1]) / "drawn.jsonl", SimpleNamespace(card=None)
with path.open("w"):
    drawn = ((Request(row, {}), Response(row["response"], True)) for row in read(sys.argv[1]))
    write_rows((row for each in drawn for row in rows_of(policy, each[:1], each[1:], Sampling())), path)
held = read_back(path)
path.unlink()
print(memory())
""",
}


class Measured(NamedTuple):
    """What a row of the sample cost here: seconds of CPU time, bytes on disk and in memory.

    `held`: by `train`, by what HOLDS names (`prompts` for each prompt, `drawn` for each response), in each process.
    """

    seconds: dict[str, float]
    disk: dict[str, float]
    held: dict[str, float]


class Work(NamedTuple):
    """Tokens that a model reads, many at a time, and draws, one after the other; operations for each."""

    read: float
    drawn: float
    flops: float


def made(count: int, prompt: int, response: int) -> Iterator[str]:
    """Yield lines of JSON: two responses to each prompt, of so many words, with a rating."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(2, 9))) for _ in range(5000)]
    asked = ""
    for i in range(count):
        asked = asked if i % 2 else " ".join(rng.choices(words, k=prompt))
        row = {"prompt": asked, "response": " ".join(rng.choices(words, k=response)), "helpfulness": rng.randint(1, 5)}
        yield json.dumps(row) + "\n"


def sampled(count: int, prompt: int, response: int) -> Measured:
    """Run `steer data` and `steer label` on so many rows, and read them as training does; words of a row."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds, disk, memory = {}, {}, {}
        for size in (count // 10, count):
            place = folder / str(size)
            place.mkdir()
            (place / "log.jsonl").write_text("".join(made(size, prompt, response)))
            commands = {
                "data": ["data", str(place / "log.jsonl"), "--output", str(place / "data")],
                "label": ["label", str(place / "data"), "--scorer", SCORER, "--output", str(place / "labels")],
            }
            for name, command in commands.items():
                seconds[name, size] = measured(command).cpu
                output = place / command[command.index("--output") + 1] / "rows.jsonl"
                disk[name] = output.stat().st_size / size
            for _ in ("tokenised", "found"):  # the first holds what it has just tokenised, 1,000 rows at a time
                memory["train", size] = prepared(place / "labels", place / "cache", stored=True).memory
            disk["rows of train"] = sum(path.stat().st_size for path in place.glob("cache/rows/*/*")) / size
            for name, script in HOLDS.items():
                [memory[name, size]] = printed(script, place / "labels", place / "cache", stored=True)
    # A start takes as much for any number of rows: what a further row costs is the difference.
    few, more = count // 10, count - count // 10
    each = {name: (seconds[name, count] - seconds[name, few]) / more for name in ("data", "label")}
    held = {name: (memory[name, count] - memory[name, few]) * 2**20 / more for name in ("train", *HOLDS)}
    held["prompts"] *= 2  # `made` gives two responses to each
    return Measured(each, disk, held)


def works(options: argparse.Namespace, rows: float) -> dict[str, list[Work]]:
    """Return what models do in each stage for so many logged rows."""
    o, row, prompts = options, options.prompt + options.response, rows / options.responses
    policy, scorer, fresh = 2 * o.parameters, 2 * o.scorer, prompts * options.draws

    def scored(responses: float) -> Work:
        return Work(responses * row, 0, scorer)

    def trained(responses: float) -> Work:
        return Work(responses * row * o.epochs, 0, 2 * policy)

    def answered(count: float) -> list[Work]:
        return [Work(count * (o.prompt + 2 * row), count * o.response, policy), scored(count)]

    drawn = Work(prompts * o.prompt, fresh * o.response, policy)
    return {
        "fit, regression": [Work(o.rated * row * EPOCHS, 0, 3 * scorer)],
        "label, fitted": [scored(rows)],
        "annotate, judge": [Work(prompts * (row + o.response), prompts * VERDICT, 2 * o.judge)],
        "train, LoRA": [trained(rows)],
        "reference log-probs": [Work(rows * row, 0, policy)],
        "generate": [drawn],
        "iterate, a round": [drawn, scored(fresh), trained(rows + fresh), *answered(o.watch)],
        "evaluate, a policy": answered(o.answers),
        "compare, a run": [trained(rows), *answered(o.answers)],
    }


def computed(options: argparse.Namespace) -> Iterator[str]:
    """Yield two lines of the table for each stage with a model: tokens, and hours of a GPU."""
    rate, drawing = options.peak * options.mfu, options.peak * options.decode_mfu
    columns = [works(options, rows) for rows in options.rows]
    for name in columns[0]:
        read, drawn = ([sum(work[i] for work in column[name]) for column in columns] for i in (0, 1))
        yield _line(name, "tokens read + drawn" if any(drawn) else "tokens read", read, *[drawn] * any(drawn))
        seconds = [sum((w.read / rate + w.drawn / drawing) * w.flops for w in column[name]) for column in columns]
        yield _line(name, "GPU hours", [x / 3600 for x in seconds])


def table(options: argparse.Namespace, sample: Measured) -> Iterator[str]:
    """Yield the lines of the page."""
    tokens = options.prompt + options.response
    seconds, disk, held = sample
    stored = disk["rows of train"] + tokens * ID
    yield (
        f"A row: {tokens:,} tokens ({options.prompt:,} of the prompt, {options.response:,} of the response), taken as "
        f"{words(options.prompt)} and {words(options.response)} words."
    )
    yield (
        f"Measured on {options.sample:,} such rows here, for each: `data` {seconds['data'] * 1e6:,.0f} and `label` "
        f"(counted) {seconds['label'] * 1e6:,.0f} µs of CPU time; {disk['data']:,.0f} and {disk['label']:,.0f} bytes "
        f"on disk; for `train` {disk['rows of train']:,.0f} bytes in the cache, {tokens * ID:,} more for token ids "
        f"({ID} each), and {held['train']:,.0f} in the memory of each process."
    )
    yield (
        f"Held in memory by other commands: {held['iterate']:,.0f} bytes a row by `iterate`, {held['compare']:,.0f} by "
        f"each process of `compare`, {held['prompts']:,.0f} a prompt that `generate` is to answer once, and "
        f"{held['drawn']:,.0f} a response that a round drew. Rows held whole (by `evaluate`, by a round with "
        "`--annotator` or `--relative-levels`, by `generate` with `--best-of` or `--score`, and from sources other "
        f"than a folder of a stage) take {held['dicts']:,.0f} each."
    )
    yield (
        f"Given: {options.responses:g} responses to a prompt, and {options.draws:g} drawn; {options.parameters:.3g} "
        f"parameters, a scorer of {options.scorer:.3g} fitted on {options.rated:,.0f} rows, a judge of "
        f"{options.judge:.3g}; {options.epochs:g} epochs; {options.watch:,} answers that are watched after a round, "
        f"{options.answers:,} in an evaluation; a GPU of {options.peak:.3g} FLOP/s at {options.mfu:.0%} (drawing "
        f"{options.decode_mfu:.0%})."
    )
    yield "\n| stage | unit | " + " | ".join(f"{count:.0e} rows" for count in options.rows) + " |"
    yield "|---|---|" + "---|" * len(options.rows)
    yield _line("data", "CPU hours", [rows * seconds["data"] / 3600 for rows in options.rows])
    yield _line("label, counted", "CPU hours", [rows * seconds["label"] / 3600 for rows in options.rows])
    yield from computed(options)
    lines = {
        ("data", "GB on disk"): disk["data"],
        ("label", "GB on disk"): disk["label"],
        ("train", "GB on disk, of a machine"): stored,
        ("train", "GB in each process"): held["train"],
        **{(name, "GB in the command"): bytes_ for name, bytes_ in in_the_command(options, held).items()},
    }
    for (name, unit), bytes_ in lines.items():
        yield _line(name, unit, [rows * bytes_ / 1e9 for rows in options.rows])
    yield ""
    yield (
        f"- First to break: Python in one process. `data` reads {1 / seconds['data']:,.0f} rows a second and `label` "
        f"{1 / seconds['label']:,.0f}, which is {1e9 * seconds['data'] / 86400:,.1f} and "
        f"{1e9 * seconds['label'] / 86400:,.1f} days for 1e9 rows. `--num-proc` shares that out among processes of a "
        "machine; for several machines cut the file, and run both for each piece, `label` with the schema of the first."
    )
    holds = {"train": held["train"], **in_the_command(options, held)}
    worst, *others = sorted(holds, key=lambda name: -holds[name])
    most = {name: f"{options.memory * 1e9 / bytes_:.1e}" for name, bytes_ in holds.items()}
    yield (
        f"- Then memory, first that of `{worst}`: a machine with {options.memory:g} GB ends at about {most[worst]} "
        f"logged rows ({', '.join(f'`{name}` at {most[name]}' for name in others)}), each in one process; "
        "what a round or a run of a comparison trains in the same process comes on top. "
        f"`train` holds the place and the group of a row in every process, so {options.processes} end at "
        f"{options.memory * 1e9 / held['train'] / options.processes:.1e}. A round "
        "holds what it drew whole: `--prompts-per-round` makes that less."
    )


def in_the_command(options: argparse.Namespace, held: Mapping[str, float]) -> dict[str, float]:
    """Return the bytes of memory for each logged row in commands that keep rows themselves, whatever trains or draws.

    `iterate` holds the row of a prompt already; as elsewhere here, its rounds draw to every prompt.
    """
    drawn = options.draws * held["drawn"] / options.responses
    generate = held["prompts"] * max(1, options.draws) / options.responses  # at most: further draws share the prompt
    return {"generate": generate, "iterate": held["iterate"] + drawn, "compare": held["compare"]}


def words(tokens: int) -> int:
    """Words of a text of so many tokens."""
    return max(1, round(tokens / TOKENS_A_WORD))


def _line(name: str, unit: str, *values: Sequence[float]) -> str:
    """A line of the table; several sequences of values stand as sums."""
    return f"| {name} | {unit} | " + " | ".join(" + ".join(map(_short, cell)) for cell in zip(*values)) + " |"


def _short(value: float) -> str:
    """Two digits that count: 0.012, 4.3, 1,200, 6.1e+09."""
    if value >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def asked(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options; default: those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", type=float, required=True, help="peak FLOP/s of a GPU in the precision of training")
    parser.add_argument("--mfu", type=float, required=True, help="share of the peak that training and scoring reach")
    parser.add_argument("--decode-mfu", type=float, default=0.05, help="share of the peak that drawing reaches")
    parser.add_argument("--rows", type=float, nargs="+", default=[1e5, 1e7, 1e9])
    parser.add_argument("--parameters", type=float, default=8e9, help="of the policy")
    parser.add_argument("--scorer", type=float, default=1.5e8, help="parameters of a fitted scorer")
    parser.add_argument("--prompt", type=int, default=300, help="tokens")
    parser.add_argument("--response", type=int, default=300, help="tokens")
    parser.add_argument("--responses", type=float, default=2, help="of a prompt in the logs")
    parser.add_argument("--draws", type=float, default=1, help="responses drawn to each prompt")
    parser.add_argument("--rated", type=float, default=1e4, help="rows that the scorer is fitted on")
    parser.add_argument("--judge", type=float, default=8e9, help="parameters of a judge")
    parser.add_argument("--watch", type=int, default=300, help="answers after a round")
    parser.add_argument("--answers", type=int, default=1300, help="answers of a policy that is evaluated")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--processes", type=int, default=8, help="of training on one machine")
    parser.add_argument("--memory", type=float, default=512, help="GB of a machine")
    parser.add_argument("--sample", type=int, default=10_000, help="rows that are measured here")
    return parser.parse_args(arguments)


def main() -> None:
    options = asked()
    for line in table(options, sampled(options.sample, words(options.prompt), words(options.response))):
        print(line)


if __name__ == "__main__":
    main()
