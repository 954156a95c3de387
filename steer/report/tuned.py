"""Table of the learning rates that were tried for every method, what the proxy said of them, and what trying took."""

from __future__ import annotations

from collections.abc import Sequence

from steer.report.cells import Report, cell, count, rate, signed, verdict
from steer.report.page import Block, Table

HEAD = (
    "Less its own rate|Shown to be better|Runs|Optimizer steps|Tokens trained on|Responses drawn|Scorer calls|Answers|"
    "Seconds"
)


def tuned(tuning: Report) -> list[Block]:
    """Tabulate the rates, the chosen one bold, and the tuning's budget; name the methods whose best is at the edge."""
    rows, strong = [], set()
    for i, entry in enumerate(tuning["entries"]):
        tries = [f"{rate(one['learning_rate'])}: {cell(one['proxy'])}" for one in entry["tries"]]
        strong |= {(i, j) for j, one in enumerate(entry["tries"], 1) if one["chosen"]}
        gain = entry["gain"]
        runs = f"{entry['runs']:,}" + (f", {entry['failed']:,} failed" if entry["failed"] else "")
        taken = (count(entry[k]) for k in ("steps", "tokens", "drawn", "scored", "answers", "seconds"))
        rows.append([entry["name"], *tries, signed(gain), verdict(gain), runs, *taken])
    tries_of = tuning["entries"][0]["tries"] if tuning["entries"] else []
    rates = [f"Rate {i}" for i, _ in enumerate(tries_of, 1)]
    caption = (
        f"Mean proxy reward ({tuning['proxy']}) at every rate that was tried, in sd of the logs; bold: chosen, the "
        f"highest. One seed that no repetition has, on the first base; {tuning['rows']:,} training rows, answers to "
        f"{tuning['prompts']:,} training prompts that these runs did not train on, without those where a try of the "
        "method has no score. Neither gold nor the prompts of this report were asked. The gain over its own rate is "
        "that of the best of several tries on the prompts that chose it: it is biased upwards, and neither its "
        "interval nor a 'yes' is corrected for that. "
        "Every method had as many runs of as many optimizer steps; what that took, with a stage in front where there "
        "is one, stands beside it."
    )
    blocks: list[Block] = [Table(caption, ("Method", *rates, *HEAD.split("|")), rows, frozenset(strong))]
    return blocks + _edges(tuning["entries"]) + _unscored(tuning)


def _unscored(tuning: Report) -> list[Block]:
    some = [(e["name"], e["unscored"]) for e in tuning["entries"] if e.get("unscored")]
    names = ", ".join(f"{name} ({count:,} of {tuning['prompts']:,})" for name, count in some)
    return [f"Prompts left out of the choice, because a try has no score there: {names}."] if some else []


def _edges(entries: Sequence[Report]) -> list[Block]:
    names = [entry["name"] for entry in entries if entry["edge"]]
    text = "The best rate is the lowest or the highest that was tried, so that one beyond it may be better still: "
    return [f"{text}{', '.join(names)}."] if names else []
