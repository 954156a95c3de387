"""The report says what the numbers say and no more, escapes what models write, and asks nobody for anything."""

import copy
import html.parser
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steer import report
from steer.evaluation.controllability import controllability, correlation
from steer.report import dials
from steer.report.optimised import optimised

NAMES = ("helpfulness", "verbosity", "toxicity")
HOSTILE = "<script>alert('x')</script> \"quoted\" & a|b\nsecond line"


def around(mean: float, half: float = 0.12, n: int = 600) -> dict[str, Any]:
    """An interval."""
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


NOTHING = {"mean": None, "low": None, "high": None, "n": 0}


def system(name: str, gold: float, difference: Any = None, kl: float | None = 1.0, **changes: Any) -> dict[str, Any]:
    """One row of the comparison."""
    row = {
        "name": name,
        "method": name.split()[0].split(":")[0],
        "settings": "",
        "target": "",
        "gold": around(gold),
        "proxy": around(gold * 1.3 + 0.1),
        "difference": difference,
        "kl": None if kl is None else around(kl, 0.1 * kl + 0.02),
        "words": around(41.3 + 6 * gold, 1.4),
        "distinct_2": 0.52 - 0.05 * gold,
        "finished": 0.985,
        "leaked": 0.0,
        "attributes": {n: around(2.1 + gold * w, 0.08) for n, w in zip(NAMES, (0.9, 0.4, -0.3))},
        "ess": None,
        "family": name.split(":")[0].split()[0],
        "fresh": {"spearman": 0.71, "too_much": 0.1 + 0.3 * gold},
        "distinct_1": 0.2,
        "unique": None,
        "repeated_3": 0.04,
        "steps": 600,
        "drawn": 0,
        "scored": 0,
        "train_tokens": 1_843_200,
        "generated": 600,
    }
    return row | changes


def dial(matrix: Any, noise: float, prompts: int = 40, permute: bool = False) -> dict[str, Any]:
    """Measured on a simulated dial: obtained = 0.4 + targets @ matrix + noise."""
    rng = np.random.default_rng(0)
    grid = np.array(list(itertools.product(range(5), range(5), range(3))), float)
    target = np.tile(grid, (prompts, 1))
    keys = np.repeat(np.arange(prompts), len(grid))
    asked = rng.permutation(target) if permute else target
    obtained = (
        0.4 + asked @ np.array(matrix) + rng.normal(0, noise, target.shape) + rng.normal(0, 0.2, (prompts, 1))[keys]
    )
    return controllability(
        target, obtained, keys, attributes=NAMES, levels=[5, 5, 3], data_span=[3.6, 3.8, 1.7], resamples=200
    )


def preferences(names: list[str]) -> dict[str, Any]:
    """What two annotators say of three systems."""

    def side(name: str, i: int) -> dict[str, Any]:
        row = {"name": name, "strength": around(0.4 * i), "place": {"mean": 3.0 - i, "low": 1.0, "high": 3.0, "n": 9}}
        rate = {"win_rate": around(0.6, 0.04), "standard_error": 0.02, "wins": 110, "ties": 4, "losses": 86}
        return row | (rate | {"length_controlled": around(0.57, 0.05)} if i else {})

    found = {"comparisons": 600, "unanswered": 0, "turned": 0.04, "systems": [side(n, i) for i, n in enumerate(names)]}
    agreed = {"annotators": ["judge:a", "countable:b"], "agreement": around(0.8), "kappa": 0.55}
    both = [{"annotator": name, **found} for name in ("judge:a", "countable:b")]
    return {"baseline": names[0], "annotators": both, "agreement": [agreed]}


def measured(name: str) -> dict[str, Any]:
    """The proxy against gold."""
    figures = ("mae", "baseline_mae", "rmse", "pearson", "spearman", "qwk", "pairwise", "spearman_with_length")
    bins = [{"predicted": float(i), "truth": i + 0.1, "n": 60} for i in range(5)]
    return {"attribute": name, **dict.fromkeys(figures, 0.6), "calibration": bins}


def guided(strength: float, slope: float) -> dict[str, Any]:
    """What guidance of one strength does."""
    shares = {"repeated_3": 0.03, "words": 31.5, "cut": 0.1}
    measured = {"slope": around(slope), "distance": around(1 - slope), "fluency": around(-1 - strength)}
    return {"guidance": strength, **measured, "distinct_2": 0.2, **shares}


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """A realistic report, hostile text in its samples."""
    rng = np.random.default_rng(1)
    logs = rng.normal(size=(500, 3)) @ np.array([[1, 0.7, -0.3], [0, 0.7, 0], [0, 0, 0.9]])
    matrix = [[0.82, 0.06, 0.0], [0.05, 0.71, 0.02], [-0.12, 0.0, 0.55]]
    systems = [
        system("logs", 0.02, kl=None, train_tokens=0),
        system("base", -0.61, around(-0.64), 0.01, train_tokens=0),
        system("mle", 0.03, None, 0.21),
        system("conditional @ best", 0.86, around(0.83, 0.13), 0.74, target="helpfulness=4 verbosity=2 toxicity=0"),
        system("conditional @ helpfulness=4", 0.71, around(0.68, 0.14), 0.52),
        system("filtered:keep=0.1", 0.78, around(0.75, 0.15), 3.9, settings="keep=0.1"),
        system("rwr:beta=1", 0.44, around(0.41, 0.12), 0.48, settings="beta=1", ess=0.37),
        system("rwr:beta=0.3", 0.12, around(0.09, 0.16), 2.6, settings="beta=0.3", ess=0.031, leaked=0.003),
        system("dpo:beta=0.1", -0.24, around(-0.27, 0.14), 14.2, settings="beta=0.1", finished=0.71),
    ]
    answers = [
        {"name": "mle", "text": HOSTILE, "scores": {"helpfulness": 2.25, "verbosity": 1.5}},
        {
            "name": "conditional @ best",
            "text": "Boil the water, then wait four minutes. " * 9,
            "scores": {"helpfulness": 4},
        },
        {"name": "dpo:beta=0.1", "text": "the the the the " * 30, "scores": {"helpfulness": 0.5, "toxicity": 1.0}},
        {"name": "base", "text": "", "scores": {}},
    ]
    rounds = [
        {
            "round": i,
            "rows": 4000 + 1200 * i,
            "reward": around(0.86 + 0.4 * i),
            "gold": around(0.86 + 0.5 * i - 0.12 * i * i),
            "kl": around(0.7 + 1.1 * i),
            "distinct_2": 0.48 - 0.07 * i,
            "target": "helpfulness=4",
        }
        for i in range(4)
    ]
    return {
        "title": "Steering compared with its alternatives",
        "command": "steer compare --rows runs/labelled --method mle --method conditional",
        "commit": "3f2c1ab",
        "machine": "x86_64, CPU, 2 threads, Python 3.11.7, torch 2.9.0",
        "created": "2026-11-21",
        "seeds": 3,
        "prompts": 200,
        "gold": "data_recipes.world_text:Gold",
        "proxy": "linear:abcd",
        "gold_is_proxy": False,
        "baseline": "mle",
        "notes": [
            "Gold and proxy reward are in standard deviations of the logs, whose mean is 0.",
            "Intervals are 95 %.",
        ],
        "budget": {
            "rows": 8000,
            "steps": 600,
            "batch_size": 32,
            "model": "shared/models/tiny",
            "parameters": 2_810_112,
        },
        "behaviour": {
            "reward_sd_raw": 1.42,
            "names": list(NAMES),
            "attributes": {n: {"mean": 2.1, "sd": 0.9} for n in NAMES},
            "correlation": correlation(logs).tolist(),
        },
        "systems": systems,
        "dials": [
            {"name": "conditional", "result": dial(matrix, 0.5), "targets": 75},
            {"name": "conditional, permuted labels", "result": dial(matrix, 0.5, permute=True), "targets": 75},
        ],
        "samples": [
            {"prompt": f"How do I make coffee? {HOSTILE}", "answers": answers},
            {"prompt": "为什么天空是蓝色的?", "answers": answers[1:]},
        ],
        "iterate": {
            "rounds": rounds,
            "kept": 2,
            "stopped": "gold fell by 0.10 sd",
            "ended": ["Stopped after round 3: gold fell by 0.10 sd.", "Kept round 2: rounds/policy"],
        },
        "guidance": {
            "against": "none",
            "scorer": "gold:v1",
            "responses": 40,
            "targets": 9,
            "prompts": 20,
            "points": [guided(s, slope) for s, slope in ((0, 0.1), (1, 0.6), (2, 0.8), (4, 0.5))],
        },
        "frontiers": {
            "most": {"kl": 14.2, "words": 31.0},
            "families": [
                {"name": "rwr", "points": 2, "cut_off": 0.1}
                | {"volumes": {"kl": around(0.31, 0.05), "words": around(0.2, 0.05)}}
            ],
        },
        "win_rates": preferences(["mle", "conditional @ best", "dpo:beta=0.1"]),
        "scorer": {"rows": 300, "held_out": True, "attributes": [measured(n) for n in NAMES]},
        "prompt_only": {"rows": 8000, "pearson": 0.31},
        "hashes": {"rows": "0123456789abcdef", "mle, seed 0": "fedcba9876543210"},
        "failures": [{"name": "ppo, seed 1", "error": f"out of memory {HOSTILE}"}],
        "commands": ["steer compare --config runs/compare/config.json --output NEW"],
    }


class Page(html.parser.HTMLParser):
    """Counts what a page holds and checks that its tags match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.titles = 0
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title" and self.open[-1] == "svg":
            self.titles += 1
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        """All that a reader sees."""
        return " ".join(self.words)


def page(value: dict[str, Any], folder: Path) -> tuple[str, Page]:
    """The HTML of a report, as text and parsed."""
    text = report.write(value, folder).read_text(encoding="utf-8")
    return text, Page(text)


def changed(value: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A deep copy with some parts replaced."""
    return copy.deepcopy(value) | changes


def emptied(value: Any) -> Any:
    """Every interval and every figure that may be undefined, undefined."""
    if isinstance(value, dict):
        if {"mean", "low", "high", "n"} <= value.keys():
            return value | {"mean": None, "low": None, "high": None}
        lone = ("distinct_2", "finished", "leaked", "ess", "kl", "difference")
        return {k: None if k in lone else emptied(v) for k, v in value.items()}
    return [emptied(v) for v in value] if isinstance(value, list) else value


def test_json_equals_the_input(example: dict[str, Any], tmp_path: Path) -> None:
    assert report.write(example, tmp_path) == tmp_path / "report.html"
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == example


def test_nan_becomes_null(example: dict[str, Any], tmp_path: Path) -> None:
    behaviour = example["behaviour"] | {"correlation": [[float("nan")] * 3] * 3}
    text, _ = page(changed(example, behaviour=behaviour), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["behaviour"]["correlation"] == [[None] * 3] * 3
    assert not re.search(r"\bnan\b", text)


def test_page_asks_nobody_for_anything(example: dict[str, Any], tmp_path: Path) -> None:
    text, found = page(example, tmp_path)
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "form", "base"})
    for _, attributes in found.tags:
        assert not [name for name in attributes if name == "src" or name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")


def test_links_lead_to_sections(example: dict[str, Any], tmp_path: Path) -> None:
    _, found = page(example, tmp_path)
    links = [a["href"] for tag, a in found.tags if tag == "a"]
    assert links == [f"#{a['id']}" for tag, a in found.tags if tag == "section"]
    assert len(links) == 12


def test_text_of_models_and_people_is_escaped(example: dict[str, Any], tmp_path: Path) -> None:
    bad = changed(example, title=HOSTILE, notes=[HOSTILE], gold=HOSTILE, gold_is_proxy=True, commands=[HOSTILE])
    for part in (*bad["systems"], *bad["dials"], *(a for s in bad["samples"] for a in s["answers"])):
        part["name"] = f"{part['name']} {HOSTILE}"
    text, found = page(bad, tmp_path)
    assert "<script" not in text
    assert "alert('x')" not in text  # quotes are escaped too
    assert found.text.count("<script>alert('x')</script> \"quoted\" & a|b") > len(bad["systems"])
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    fenced = [line for line in markdown.splitlines() if line.startswith("    ")]
    assert "<script" not in "".join(line for line in markdown.splitlines() if line not in fenced)


def test_charts_have_titles_and_tables_have_captions_and_scopes(example: dict[str, Any], tmp_path: Path) -> None:
    _, found = page(example, tmp_path)
    names = [tag for tag, _ in found.tags]
    charts = 9 + 3 + 2 + 1 + 2 * 3 + 3 + 4  # bars, forest, scatters, costs, rwr's strengths, dials, rounds, guidance
    assert names.count("svg") == found.titles == charts
    assert names.count("table") == names.count("caption") == 21
    assert "highest at S = 2, 0.80" in found.text
    assert all(a.get("scope") in ("col", "row") for tag, a in found.tags if tag == "th")


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_undefined_is_a_dash(example: dict[str, Any], tmp_path: Path, name: str) -> None:
    report.write(emptied(example), tmp_path)
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert not re.search(r"\b(nan|None|null|inf)\b", text)
    assert "–</td>" in text or "| - |" in text


def test_undefined_bounds_are_dashes(example: dict[str, Any], tmp_path: Path) -> None:
    single = example["systems"][2] | {"gold": {"mean": 0.25, "low": None, "high": None, "n": 1}}
    text, _ = page(changed(example, systems=[single], dials=[]), tmp_path)
    assert '0.25<small class="bounds">[–, –]</small>' in text
    assert "0.25 [-, -]" in report.table(changed(example, systems=[single], dials=[]))


def test_every_system_has_a_row(example: dict[str, Any], tmp_path: Path) -> None:
    report.write(example, tmp_path)
    markdown, terminal = (tmp_path / "report.md").read_text(encoding="utf-8"), report.table(example)
    comparison = markdown.split("## Comparison")[1].split("Frontiers")[0]
    order = [line.split("|")[1].split(" (")[0].strip() for line in comparison.splitlines() if line.startswith("|")][2:]
    best_first = sorted(example["systems"], key=lambda s: -s["gold"]["mean"])
    assert order == [s["name"] for s in best_first]
    lines = terminal.split("\nWin-rate")[0].splitlines()[-10:]
    assert [line.split("  ")[0] for line in lines[1:]] == order
    assert len({len(line) for line in lines}) == 1


def test_headline_says_why_there_is_no_difference(example: dict[str, Any]) -> None:
    alone = changed(example, systems=[system("mle", 0.0)], dials=[])
    assert report.headline(alone)[0] == "mle is the only system, so there is no difference to claim."
    assert report.headline({**alone, "counted": []})[0].startswith(
        "No attribute has a better end, so there is no reward"
    )


def test_levels_that_are_not_called_by_their_number_are_named(example: dict[str, Any]) -> None:
    (dial, *_), names = example["dials"], [*example["dials"][0]["result"]["attributes"]]
    plain = dials.obtained({**dial, "shown": {n: ["0", "1", "2"] for n in names}}).caption
    assert (
        plain == dials.obtained(dial).caption == f"{dial['name']}: mean level obtained per level asked; {dials.LEVELS}"
    )
    called = dials.obtained({**dial, "shown": {names[0]: ["1", "2", "3"]}}).caption
    assert called == f"{plain} Those of {names[0]} are called 1, 2, 3."


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.4, "rwr is +0.20 sd [0.01, 0.40] above mle on gold reward."),
        (-0.01, 0.4, "Not distinguished from mle, the interval contains 0: rwr (+0.20 [-0.01, 0.40])."),
        (0.0, 0.4, "Not distinguished from mle, the interval contains 0: rwr (+0.20 [0.00, 0.40])."),
        (None, None, "Nothing was paired with mle, so no difference is claimed."),
    ],
)
def test_headline_claims_what_the_interval_allows(
    example: dict[str, Any], low: float | None, high: float | None, said: str
) -> None:
    other = system("rwr", 0.2, {"mean": 0.2, "low": low, "high": high, "n": 600})
    lines = report.headline(changed(example, systems=[system("mle", 0.0), other], dials=[]))
    assert said in lines
    if low is None or low <= 0:
        assert not [line for line in lines if line.startswith(("rwr is", "Also above", "Below"))]


def test_headline_names_losses_and_the_unpaired(example: dict[str, Any]) -> None:
    other = system("dpo", -0.5, around(-0.5))
    lines = report.headline(changed(example, systems=[system("mle", 0.0), other, system("rwr", 0.9)], dials=[]))
    assert lines == [
        "No system is shown to be above mle on gold reward.",
        "Below mle: dpo (-0.50 [-0.62, -0.38]).",
        "Without an interval for the difference from mle: rwr.",
    ]


def test_headline_tells_a_dial_that_does_not_move(example: dict[str, Any]) -> None:
    still = {"name": "conditional", "result": dial(np.diag([0.8, 0, 0.5]), 0.5), "targets": 75}
    line = report.headline(changed(example, dials=[still]))[-1]
    moved, unmoved = line.split("; ")
    assert "helpfulness 0.8" in moved
    assert "toxicity 0." in moved
    assert unmoved.startswith("conditional is not shown to move: verbosity ")


def test_judging_with_the_scorer_that_trained_is_said_first(example: dict[str, Any], tmp_path: Path) -> None:
    same = changed(example, gold_is_proxy=True)
    _, found = page(same, tmp_path)
    said = "This report judges with the scorer that trained"
    assert said in found.text
    assert report.table(same).startswith(said)
    assert said in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert said not in report.table(example)
    assert said not in report.table(changed(same, gold="countable:words"))  # whoever counts, the count is the same


def test_the_terminal_shows_win_rates_of_who_was_named(example: dict[str, Any]) -> None:
    """What the gold scorer prefers is the table's difference already."""
    told = report.table(example)
    assert "by judge:a, % (at equal length: intervals over prompts only):\n" in told
    assert "by judge:a, %:\n" in report.table(changed(example, seeds=1)), "where all are over prompts only"
    assert "60.0 [56.0, 64.0], at equal length 57.0 [52.0, 62.0], 110/4/86 won/tied/lost" in told
    gold = changed(example, gold="judge:a")
    assert "by judge:a" not in report.table(gold)
    assert "by countable:b, % (" in report.table(gold)


def test_logged_responses_are_called_held_out_only_where_they_are(example: dict[str, Any], tmp_path: Path) -> None:
    for held_out in (True, False):
        scorer = {**example["scorer"], "held_out": held_out}
        report.write(changed(example, scorer=scorer), tmp_path)
        said = (tmp_path / "report.md").read_text()
        assert ("on 300 logged responses, held out." in said) == held_out
        assert ("300 logged responses; no split says whether training saw them." in said) == (not held_out)


def test_parts_may_be_missing(example: dict[str, Any], tmp_path: Path) -> None:
    bare = changed(example, dials=[], iterate=None, guidance=None, samples=[], failures=[], notes=[], commands=[])
    _, found = page(bare, tmp_path)
    assert [a["id"] for tag, a in found.tags if tag == "section"] == [
        "comparison", "win-rates", "scorer", "negative-controls", "budget", "failures", "repeat-it",
    ]  # fmt: skip
    assert "No run failed." in found.text
    page(bare | {"systems": []}, tmp_path)


def test_an_attribute_that_was_never_asked(example: dict[str, Any], tmp_path: Path) -> None:
    target, obtained = np.array([[0.0, np.nan], [1, np.nan]] * 9), np.array([[0.0, 1], [1, 1]] * 9)
    found = controllability(
        target, obtained, np.arange(18), attributes=NAMES[:2], levels=[2, 2], data_span=[1, 1], resamples=50
    )
    text, _ = page(changed(example, dials=[{"name": "conditional", "result": found, "targets": 2}]), tmp_path)
    assert "not asked, or no score" in text


def test_permuted_labels_must_not_move(example: dict[str, Any], tmp_path: Path) -> None:
    leak = {"name": "conditional, permuted labels", "result": example["dials"][0]["result"], "targets": 75}
    _, found = page(changed(example, dials=[leak]), tmp_path)
    assert "excludes 0 for helpfulness, verbosity, toxicity" in found.text


def test_dials_stand_beside_that_of_prompting(example: dict[str, Any], tmp_path: Path) -> None:
    conditional, control = example["dials"]
    gains = dict(zip(NAMES, map(around, (0.41, 0.05, -0.3))))
    dials = [
        {**conditional, "name": "prompted", "less": None},
        {**conditional, "less": {"name": "prompted", "slopes": gains}},
        control,
    ]
    value = changed(example, dials=dials)
    report.write(value, tmp_path)
    text = (tmp_path / "report.md").read_text()
    lines = [line.split(" | ")[-1].strip(" |") for line in text.splitlines() if line.startswith("| conditional | ")]
    assert lines == ["**+0.41 [0.29, 0.53]**", "+0.05 [-0.07, 0.17]", "**-0.30 [-0.42, -0.18]**"]
    assert report.headline(value)[-4].startswith("Asked for one level more, conditional obtains")
    assert report.headline(value)[-3:] == [
        "Slopes above those of prompted, paired by prompt and target: conditional on helpfulness (+0.41 [0.29, 0.53]).",
        "Slopes below those of prompted: conditional on toxicity (-0.30 [-0.42, -0.18]).",
        "Slopes not distinguished from those of prompted: conditional on verbosity (+0.05 [-0.07, 0.17]).",
    ]


def test_long_answers_are_cut_in_plain_sight(example: dict[str, Any], tmp_path: Path) -> None:
    answers = [{"name": f"system {i}", "text": "<b>" * 3000, "scores": {}} for i in range(10)]
    text, found = page(changed(example, samples=[{"prompt": "p" * 9000, "answers": answers}] * 40), tmp_path)
    assert len(text.encode()) < 320_000
    assert "8,500 more letters in report.json" in found.text
    assert "28 more prompts are in report.json." in found.text


def strengths(example: dict[str, Any], *systems: dict[str, Any]) -> dict[str, str]:
    """Captions of the charts of over-optimisation by what they are about."""
    blocks = optimised(changed(example, systems=list(systems)))
    texts = re.findall(r"<figcaption><b>(.*?)</b><span>(.*?)</span>", blocks[1].html if blocks else "")  # type: ignore[union-attr]
    return {name: html.unescape(said) for name, said in texts}


def test_over_optimisation_is_drawn_over_each_number_that_systems_differ_in_alone(example: dict[str, Any]) -> None:
    def at(name: str, gold: float, proxy: float, kl: float | None = None, family: str = "") -> dict[str, Any]:
        return system(name, gold, kl=kl, proxy=around(proxy), family=family or name.split(":")[0])

    found = strengths(
        example,
        at("logs", 0.0, 0.0, family="logs"),
        at("mle", 0.1, 0.2),
        *(at(f"mle:best_of={n}", gold, proxy) for n, gold, proxy in ((64, 0.4, 1.9), (4, 0.8, 1.0), (16, 0.7, 1.5))),
        at("mle:random_of=4", 0.1, 0.2, family=" "),
        *(at(f"rwr:beta={b:g}", 1 / b, 1 / b, kl=1 / b) for b in (3.0, 1.0, 0.5)),
        *(at(f"raft:rounds={r},n={n}", r, r + n, kl=r) for r in (1, 2) for n in (2, 4)),
        *(at(f"rso:loss={loss}", 0.5, 0.5) for loss in ("hinge", "sigmoid-norm")),
        at("quark @ best", 1.0, 2.0, family="quark @ best") | {"rounds": 2},
        *(at(f"quark:rounds={r} @ best", g, g, family="quark @ best") | {"rounds": r} for r, g in ((1, 0.5), (3, 0.9))),
        at("conditional @ best", 0.9, 0.9, family="conditional @ best"),
        at("conditional:guidance=2 @ best", 1.0, 1.1, family="conditional @ best"),
        system("ppo:kl=0", 1.0, family="ppo", proxy=NOTHING),
        at("ppo:kl=1", 1.0, 1.0),
    )
    assert found == {
        "mle": "Gold is highest at best_of = 4, the proxy at 64.",
        "rwr": "Gold is highest at beta = 0.5, the proxy at 0.5.",
        **{f"raft: n={n}": "Gold is highest at rounds = 2, the proxy at 2." for n in (2, 4)},
        **{f"raft: rounds={r}": "Gold is highest at n = 2, the proxy at 4." for r in (1, 2)},
        "quark @ best": "Gold is highest at rounds = 2, the proxy at 2.",
        "conditional @ best": "Gold is highest at guidance = 2, the proxy at 2.",
    }


def test_strength_rises_to_the_right_with_an_interval_at_every_point(example: dict[str, Any]) -> None:
    systems = [system(f"rwr:beta={b:g}", 1 / b, kl=1 / b, family="rwr") for b in (0.5, 1.0, 3.0)]
    page_of = changed(example, systems=systems)
    [svg] = re.findall(r"<svg.*?</svg>", optimised(page_of)[1].html, re.S)  # type: ignore[union-attr]
    ticks = re.findall(r'<text x="([0-9.]+)" y="192"[^>]*>([^<]*)<', svg)
    assert [text for _, text in ticks] == ["3", "1", "0.5"], "the weakest first, which has the largest beta"
    assert [float(x) for x, _ in ticks] == sorted(float(x) for x, _ in ticks)
    assert svg.count('class="dot gold"') == 3 + 1  # and in the legend
    assert svg.count('class="dot proxy"') == 3 + 1
    assert svg.count('class="error') == 6
    heights = [float(y) for y in re.findall(r'<circle class="dot gold" cx="[0-9.]+" cy="([0-9.]+)"', svg)][:3]
    assert heights == sorted(heights, reverse=True), "more gold is higher up"
    assert not optimised(page_of | {"gold_is_proxy": True})
    assert not optimised(page_of | {"systems": systems[:1]})


def test_the_example_is_small(example: dict[str, Any], tmp_path: Path) -> None:
    assert report.write(example, tmp_path).stat().st_size < 110_000


def test_a_loop_says_why_it_ended_and_which_round_is_kept(example: dict[str, Any], tmp_path: Path) -> None:
    text, found = page(example, tmp_path)
    kept = around(0.86 + 0.5 * 2 - 0.12 * 4)  # of round 2
    for said in example["iterate"]["ended"]:
        assert said in found.text
        assert said in (tmp_path / "report.md").read_text()
    assert "| 2 (asked helpfulness=4) | **6,400** | **" in (tmp_path / "report.md").read_text()
    assert f"<b>{kept['mean']:.2f}<small" in text
    assert json.loads((tmp_path / "report.json").read_text())["iterate"]["kept"] == 2
    alone = {k: example[k] for k in ("title", "command", "commit", "machine", "created", "commands", "hashes")}
    path = report.write_loop({**alone, "iterate": example["iterate"], "title": HOSTILE}, tmp_path / "alone")
    assert "<script" not in path.read_text()
    found = Page(path.read_text())
    assert [a["id"] for tag, a in found.tags if tag == "section"] == ["rounds", "inputs", "repeat-it"]
    assert all(said in found.text for said in example["iterate"]["ended"])
