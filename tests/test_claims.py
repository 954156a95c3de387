"""The claims study of benchmarks/: when a claim holds, and the whole study at toy size."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import over_optimised
from benchmarks.claims import runs
from benchmarks.claims.runs import LOOPS, LOSSES, Bench, Task
from benchmarks.claims.study import ClaimsConfig, study
from benchmarks.claims.table import (
    NEAR,
    Claim,
    Curve,
    Judged,
    Margin,
    above,
    best_of_errors,
    claimed,
    claims,
    fall,
    near_order_statistics,
    order_statistics,
    rising,
    verdicts,
)
from steer.comparison.comparison import Comparison
from steer.config.comparison import CompareConfig
from steer.config.iteration import IterateConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.evaluation.statistics import Interval, smallest
from steer.methods import METHODS
from steer.options import resolve
from steer.run_folder import read_json, write_json
from steer.training.command import train_command

GOLD = {
    **{f"raft-k{k}": 0.1 * k for k in (1, 2, 4, 8)},
    **{f"rwr-beta{beta}": value for beta, value in (("3", 0.1), ("1", 0.2), ("0.5", 0.3))},
    **{f"sigmoid-norm-{source}": value for source, value in (("logs", 0.1), ("policy", 0.5), ("rso", 0.9))},
    **{f"hinge-norm-{source}": value for source, value in (("logs", 0.1), ("policy", 0.5), ("rso", 0.9))},
    **{f"hinge-{source}": value for source, value in (("logs", 0.1), ("policy", 0.4), ("rso", 0.7))},
    "mle": 0.0,
    "reward": 0.8,
    "permuted": 0.05,
    "short": 0.4,
    "beyond": 0.3,
    "rrhf-no-sft": -0.5,
    "rrhf-logs": 0.2,
}
ROUNDS = {"rounds-absolute": [0.5, 0.6], "rounds-relative": [0.5, 0.7], "rounds-rrhf": [0.3, 0.4]}
UP, HUMP = [0.5, 1.0, 1.5], [0.5, 1.0, 0.6]
CURVES = {"clean": (UP, UP), "few": (UP, HUMP)}
DRAWN = np.random.default_rng(0).normal(size=(4000, 8))
PROMPTS = np.random.default_rng(1).normal(size=200)  # what a prompt adds to every run's reward
PROMPTS -= PROMPTS.mean()


def run(mean: float, noise: float = 0.01, seeds: int = 3, seed: int = 0) -> Judged:
    """Rewards of a run: a mean, what its prompts add, and noise of its own."""
    rng = np.random.default_rng([seed, round(abs(mean) * 1000)])
    own = [noise * rng.normal(size=len(PROMPTS)) for _ in range(seeds)]
    return Judged([mean + PROMPTS + x - x.mean() for x in own])


def told(
    gold: dict[str, float] | None = None,
    rounds: dict[str, list[float]] | None = None,
    curves: dict[str, Any] | None = None,
    ppo: float = 1.4,
) -> dict[str, str]:
    """The claims that did not come out, with other figures in some places: their verdicts."""
    every = {name: run(value) for name, value in (GOLD | (gold or {})).items()}
    proxy = {name: run(value) for name, value in GOLD.items() if name != "beyond"}
    story = {name: [run(x) for x in each] for name, each in (ROUNDS | (rounds or {})).items()}
    lines = {
        name: Curve(*([run(x, seeds=1) for x in points] for points in pair))
        for name, pair in (CURVES | (curves or {})).items()
    }
    found = claims(every, proxy, story, lines, run(ppo, seeds=1), [DRAWN], LOSSES)
    assert claimed(found).count("\n") == len(found) + 1
    return {claim.text: verdict for claim, (verdict, _) in zip(found, verdicts(found)) if verdict != "yes"}


def test_all_claims_come_out_where_all_figures_are_so() -> None:
    assert told() == {}


@pytest.mark.parametrize(
    ("changed", "lost"),
    [
        ({"gold": {"raft-k8": 0.3}}, "raft gains"),
        ({"gold": {"rwr-beta0.5": 0.1}}, "rwr gains"),
        ({"gold": {"hinge-policy": 0.8}}, "hinge: logs"),
        ({"gold": {"hinge-rso": 0.95}}, "sigmoid-norm and hinge-norm above"),
        ({"gold": {"rrhf-no-sft": 0.1}}, "rrhf without"),
        ({"gold": {"permuted": 0.1}}, "permuted labels"),
        ({"gold": {"beyond": 0.5}}, "a level that the data lacks"),
        ({"rounds": {"rounds-rrhf": [0.4, 0.3]}}, "rrhf gains"),
        ({"rounds": {"rounds-rrhf": [0.1, 0.15]}}, "rounds of rrhf"),
        ({"rounds": {"rounds-relative": [0.5, 0.5]}}, "relative levels"),
        ({"ppo": 0.5}, "remax and ppo"),
        ({"curves": {"few": (UP, UP)}}, "a proxy on few"),
        ({"curves": {"clean": (UP, HUMP)}}, "a proxy on all"),
    ],
)
def test_a_claim_falls_with_its_own_figures_and_no_other_does(changed: dict[str, Any], lost: str) -> None:
    ((text, verdict),) = told(**changed).items()
    assert text.startswith(lost)
    assert verdict == "no"


def test_runs_whose_paired_interval_holds_0_are_not_told_apart() -> None:
    """Means in the right order are no verdict: .85, .90 and 1.07 with noise of 3 sd a prompt."""
    wide = [run(x, noise=3.0, seed=i) for i, x in enumerate((0.85, 0.9, 1.07))]
    assert [x.mean for x in wide] == pytest.approx([0.85, 0.9, 1.07])
    margins = rising(wide)
    assert all(m.interval.low < 0 < m.interval.high for m in margins)
    assert alone(margins) == "not told apart"
    close = [run(x, noise=0.01, seed=i) for i, x in enumerate((0.85, 0.9, 1.07))]
    assert alone(rising(close)) == "yes"
    assert alone(rising(close[::-1])) == "no"
    assert alone([*margins, *rising(close[::-1])]) == "no", "one link that does not hold is enough"


def alone(margins: Sequence[Margin]) -> str:
    """The verdict of a claim by its own p-value."""
    claim = Claim("", [], margins)
    return claim.verdict(claim.p)


def link(mean: float, p: float) -> Margin:
    return Margin(Interval(mean, math.nan, math.nan, 9), p, [(0.1, 8.0)])


def test_a_claim_is_as_sure_as_its_least_sure_link_and_a_wrong_link_counts_for_all_that_were_looked_at() -> None:
    assert Claim("", [], [link(1, 0.001), link(1, 0.04), link(1, 0.01)]).p == 0.04
    assert Claim("", [], [link(1, 0.001), link(-1, 0.02), link(-1, 0.3)]).p == pytest.approx(0.06)
    assert Claim("", [], [link(-1, 0.6), link(1, 0.6)]).p == 1
    unknown = Claim("", [], [link(1, 0.001), link(1, math.nan)])
    assert math.isnan(unknown.p)
    assert unknown.verdict(unknown.p) == "not told apart"


def test_verdicts_are_corrected_for_all_claims_by_holm() -> None:
    """Of .01, .02, .03 and .5 the first is multiplied by 4, the second by 3, which is more than .05."""
    family = [Claim(str(p), [1.0], [link(mean, p)]) for mean, p in ((1, 0.02), (-1, 0.01), (1, 0.03), (1, 0.5))]
    assert verdicts(family) == [
        ("not told apart", pytest.approx(0.06)),
        ("no", pytest.approx(0.04)),
        ("not told apart", pytest.approx(0.06)),
        ("not told apart", pytest.approx(0.5)),
    ]
    table = claimed(family).splitlines()
    assert table[0] == "| claim | means | must be above 0 | p, Holm | power from | came out |"
    least = smallest([(0.1, 8.0)], 0.05 / 4)
    assert family[0].least(len(family)) == pytest.approx(least)
    assert table[2].endswith(f"| 0.060 | {least:.2f} | **not told apart**, yes before Holm |")
    assert table[3].endswith(f"| 0.040 | {least:.2f} | **no** |")
    assert family[0].least(1) < family[0].least(16), "more claims show less"


def test_runs_are_paired_by_prompt_and_repetition() -> None:
    """What prompts and repetitions add to both runs cancels; alone each mean is uncertain by 1 / sqrt(200)."""
    worse, better = run(0.0), run(0.1, seed=1)
    shifted = [Judged([x + i for i, x in enumerate(each.each)]) for each in (worse, better)]
    assert worse.interval.high - worse.interval.low > 0.2
    found = above(shifted[1], shifted[0]).interval
    assert (found.mean, found.high - found.low < 0.02) == (pytest.approx(0.1), True)
    once = Judged(better.each[:1])
    assert above(once, worse).interval.n == len(PROMPTS), "the repetitions that both have"


def test_bases_that_disagree_leave_a_difference_open() -> None:
    """Three repetitions with gains of 1, 1 and -1: over prompts alone the mean of 1/3 would be far above 0."""
    worse = run(0.0)
    better = Judged([x + gain for x, gain in zip(worse.each, (1.0, 1.0, -1.0))])
    found = above(better, worse)
    assert found.interval.mean == pytest.approx(1 / 3)
    assert alone([found]) == "not told apart"


def test_seeds_on_one_base_are_not_taken_for_other_bases() -> None:
    """Nine repetitions on three bases that disagree: each base has one say, however many seeds it has."""
    gains = (1.0, 0.6, -0.1) * 3  # the bases take turns
    worse = run(0.0, seeds=9)
    better = Judged([x + gain for x, gain in zip(worse.each, gains)], [0, 1, 2] * 3)
    nested, flat = above(better, worse), above(better._replace(bases=()), worse)
    assert nested.interval.mean == pytest.approx(flat.interval.mean) == pytest.approx(0.5)
    assert alone([flat]) == "yes"
    assert alone([nested]) == "not told apart"
    thrice = above(Judged(better.each[:3], [0, 1, 2]), worse)
    assert nested.interval[1:3] == pytest.approx(thrice.interval[1:3], abs=0.02), "as three repetitions"
    assert above(Judged(worse.each[:1], [0]), worse).interval.n == len(PROMPTS)


def test_what_has_fallen() -> None:
    def curve(proxy: list[float], gold: list[float]) -> Curve:
        return Curve([run(x) for x in proxy], [run(x) for x in gold])

    assert fall(curve([0, 1, 2], [0, 1, 0.9]), 0).interval.mean == pytest.approx(0.1)
    assert fall(curve([0, 1, 2], [0, 1, 1.2]), 0).interval.mean == pytest.approx(-0.2)
    assert fall(curve([0, 2, 1], [0, 1, 0.5]), 0).interval.mean == pytest.approx(-1), "the proxy has fallen too"
    assert fall(curve([2, 1], [1, 0]), 0).interval.mean == 0, "nothing came before"
    assert fall(curve([0, 1, 2], [0, 1, 0.9]), 0.05, -1).interval.mean == pytest.approx(-0.05)


def test_the_best_of_normal_rewards_is_as_order_statistics_say() -> None:
    for n, got, expected in order_statistics([DRAWN]):
        assert got == pytest.approx(expected, rel=0.03), n
    errors = best_of_errors([DRAWN])
    assert all(x.low < 0 < x.high and x.high - x.low < 0.1 for x in errors)
    shares = [near.interval.mean for near in near_order_statistics([DRAWN])]
    assert shares == pytest.approx([NEAR - abs(x.mean) for x in errors]), "on the side that the error is nearer to"
    assert all(near.p < 0.01 for near in near_order_statistics([DRAWN]))
    assert all(near.interval.mean < 0 for near in near_order_statistics([DRAWN**3])), "heavy tails gain more"
    bases = [DRAWN, DRAWN + 0.3 * DRAWN**3, DRAWN - 0.05 * DRAWN**3]
    alone = [best_of_errors([x]) for x in bases]
    for several, apart in zip(best_of_errors(bases), zip(*alone)):
        means = [x.mean for x in apart]
        assert several.mean == pytest.approx(np.mean(means))
        t = 4.302653  # Student's, 95 %, 2 degrees of freedom
        assert several.high - several.mean > 0.9 * t * np.std(means, ddof=1) / math.sqrt(3), "bases differ"
    shifted = order_statistics([5 + 3 * DRAWN])
    assert [x[1] for x in shifted] == pytest.approx([x[1] for x in order_statistics([DRAWN])])


def test_claims_want_a_scorer_that_no_run_trains_on(labels: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="--gold is missing"):
        resolve(ClaimsConfig, {"rows": str(labels), "model": str(tiny), "output": str(tmp_path / "out")}, None)
    assert not (tmp_path / "out").exists()


def test_rounds_are_trained_with_all_that_the_others_are(
    labels: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "train.yaml", []
    path.write_text(
        "max_steps: 5\nlearning_rate: 1e-3\nmax_length: 300\nadapter: none\nwarmup_steps: 0.5\n"
        "limit: 7\nmethod: dpo\nseed: 3\n"
    )
    monkeypatch.setattr(runs, "iterate_command", seen.append)
    how: dict[str, Any] = {
        "train": str(path),
        "gold": "gold",
        "temperature": 0.5,
        "max_new_tokens": 17,
        "num_prompts": 9,
    }
    bench = Bench(Comparison(CompareConfig(str(labels), str(tiny), str(tmp_path / "out"), **how), tmp_path))
    for loop in LOOPS:
        bench.rounds(loop, 1)
        asked: IterateConfig = seen.pop()
        assert (asked.temperature, asked.max_new_tokens, asked.seed) == (0.5, 17, 1)
        assert asked.watch == 9, "paired with the runs on the prompts that those answer"
        told = resolve(TrainConfig, {"rows": str(labels), "model": "model", "output": "out"}, asked.train)
        conditioned = loop.method == "conditional"
        assert told == TrainConfig(
            str(labels),
            "model",
            "out",
            max_steps=5,
            max_length=300,
            adapter="none",
            warmup_steps=0.5,
            learning_rate=1e-3 * METHODS[loop.method].rate,
            num_train_epochs=2.0,
            batch_size=32,
            max_new_tokens=17,
            seed=1,
            attribute=("reward",) if conditioned else (),
        )


def test_rates_are_those_chosen_for_the_same_settings_or_the_same_method(labels: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "rates.json", {"mle": 1, "rwr:beta=1": 3, "rwr:beta=0.5": 0.333, "remax:after=mle": 0.75})
    (tmp_path / "train.yaml").write_text("max_steps: 5\nlearning_rate: 1e-3\n")
    how: dict[str, Any] = {"gold": "gold", "train": str(tmp_path / "train.yaml")}

    def share(method: str, rates: str = str(tmp_path), **flags: Any) -> float:
        bench = Bench(Comparison(CompareConfig(str(labels), "model", str(tmp_path), rates=rates, **how), tmp_path))
        return bench.settings(Task("run", "rows", method, flags), 0).learning_rate / 1e-3

    assert share("remax", rates="") == pytest.approx(METHODS["remax"].rate), "nothing was tuned"
    assert [share("rwr", set=(f"beta={b}",)) for b in ("0.5", "1", "3")] == pytest.approx([0.333, 3, 3])
    assert [share(name) for name in ("mle", "remax")] == pytest.approx([1, 0.75])
    assert share("dpo") == pytest.approx(METHODS["dpo"].rate)


@pytest.mark.slow
def test_the_whole_study_at_toy_size(labels: Path, tiny: Path, tmp_path: Path) -> None:
    """Every run of it, one seed on each of two bases; again it answers at once."""
    writes: dict[str, Any] = {"method": "mle", "adapter": "none", "learning_rate": 1e-2, "max_steps": 100}
    for seed, name in enumerate(("base", "other")):
        train_command(TrainConfig(str(labels), str(tiny), str(tmp_path / name), seed=seed, **writes))
    (tmp_path / "train.json").write_text(json.dumps({"max_steps": 8, "lora_r": 4, "batch_size": 8}))
    write_json(tmp_path / "tuned" / "rates.json", {"raft": 3})
    config = ClaimsConfig(
        str(labels),
        str(tmp_path / "base"),
        str(tmp_path / "out"),
        "data_recipes.world_text:Gold",
        base=(str(tmp_path / "other"),),
        num_prompts=10,
        max_new_tokens=60,
        num_proc=2,
        train=str(tmp_path / "train.json"),
        rates=str(tmp_path / "tuned"),
    )
    first = study(config)
    table = (tmp_path / "out" / "claims.md").read_text()
    lines = [line.split(" | ") for line in table.splitlines() if line.count(" | ") == 5][2:]
    verdicts = [line[-1].removesuffix(" |").split(",")[0] for line in lines]
    assert len(verdicts) == 16
    assert "as shares of that of likelihood methods: raft x 3." in table
    assert {*verdicts} <= {"yes", "**no**", "**not told apart**"}
    for seed in range(2):  # the proposal of RSO is the policy itself, not a sharpened one
        drawn = read_json(tmp_path / "out" / "pools" / str(seed) / "drawn" / "config.json")
        assert drawn["sampling"] == "own"
    assert study(config) == first
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("adapter_model.safetensors")}
    assert trained
    (tmp_path / "out" / "done.json").unlink()  # judges again what is there
    assert study(config) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("adapter_model.safetensors")} == trained


def test_the_picture_of_over_optimisation_is_of_the_published_table() -> None:
    root = Path(__file__).parent.parent
    published = (root / "benchmarks" / "results" / "claims.md").read_text(encoding="utf-8")
    kept = (root / "examples" / "over_optimised.svg").read_text(encoding="utf-8")
    assert kept == over_optimised.picture(published) + "\n", "draw it again, as benchmarks/over_optimised.py says"


def test_the_picture_of_over_optimisation_has_one_scale_for_both_proxies() -> None:
    head = "remax, steps | all ratings: proxy | all ratings: gold | few ratings: proxy | few ratings: gold"
    rows = ("21 | 1.00 [0.90, 1.10] | 0.50 [0.40, 0.60]", "170 | 2.00 [1.90, 2.10] | 1.00 [0.90, 1.10]")
    few = ("1.00 [0.90, 1.10] | 0.50 [0.40, 0.60]", "3.00 [2.90, 3.10] | -1.00 [-1.10, -0.90]")
    lines = [head, "--- | --- | --- | --- | ---", *(f"{row} | {more}" for row, more in zip(rows, few))]
    table = "\n".join(f"| {line} |" for line in lines)
    left, right = re.findall(r"<g .*?</g>", over_optimised.picture(f"| x |\n\n{table}\n\n| y |\n"))
    gold = [
        [float(y) for y in re.findall(r'<circle class="dot gold"[^>]* cy="([0-9.]+)"', x)][:-1] for x in (left, right)
    ]
    (start, end), (same, half) = gold  # without the legend
    assert start == same
    assert end - start == pytest.approx(3 * (same - half), abs=0.3), "gold falls by 1.5 on the left and rises by 0.5"
    assert "few ratings" in left
    assert "all ratings" in right
