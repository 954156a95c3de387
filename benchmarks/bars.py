"""What a comparison reached against the project's bars, as Markdown: `python benchmarks/bars.py bench`.

Reads the report.json that `steer world` or `steer compare` wrote; computes nothing anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def text(x: dict[str, Any]) -> str:
    """An interval as `1.23 [1.10, 1.36]`."""
    if x["low"] is None:
        return f"{x['mean']:.2f}"
    return f"{x['mean']:.2f} [{x['low']:.2f}, {x['high']:.2f}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def least(difference: dict[str, Any] | None) -> str:
    """The smallest difference that would have been shown with a chance of 80 %, after Holm's correction."""
    value = (difference or {}).get("least")
    return "-" if value is None else f"{value:.2f}"


def dials(report: dict[str, Any]) -> str:
    """Controllability per attribute: bars .95, .7 and .6 for the policy, slope 0 for shuffled labels."""
    found = {d["name"]: d["result"]["attributes"] for d in report["dials"]}
    control = next((v for k, v in found.items() if "permuted" in k), None)
    rows = []
    for name, f in found["conditional"].items():
        figures = [text(f[key]) for key in ("spearman_means", "spearman", "span_ratio")]
        good = f["spearman_means"]["mean"] >= 0.95 and f["spearman"]["mean"] >= 0.7 and f["span_ratio"]["mean"] >= 0.6
        rows.append([name, *figures, text(control[name]["slope"]) if control else "-", "yes" if good else "**no**"])
    head = [
        "attribute",
        "Spearman of means (.95)",
        "single samples (.7)",
        "span ratio (.6)",
        "slope, shuffled labels (0)",
    ]
    return table([*head, "bars reached"], rows)


def systems(report: dict[str, Any]) -> str:
    """Gold reward of every system and its difference from mle."""
    rows = [
        [
            f"`{s['name']}`",
            text(s["gold"]),
            text(s["difference"]) if s["difference"] else "-",
            (s["difference"] or {}).get("verdict", "-"),
            least(s["difference"]),
            text(s["proxy"]),
            text(s["kl"]) if s["kl"] else "-",
            f"{s['words']['mean']:.0f}",
            f"{s['distinct_2']:.2f}",
            f"{s['steps']:,}",
            f"{report['seconds'].get(s['name'], 0):.0f}",
        ]
        for s in sorted(report["systems"], key=lambda s: -s["gold"]["mean"])
    ]
    head = ["system", "gold reward, sd", f"less {report['baseline']}", "above it", "power from, sd", "proxy reward"]
    return table([*head, "KL, nats", "words", "distinct-2", "steps", "seconds of training"], rows)


COSTS = {"kl": "KL", "words": "words", "seconds": "seconds of training", "tokens": "tokens of training"}


def frontiers(report: dict[str, Any]) -> str:
    """The gold reward that a method reaches within a cost, averaged over costs from 0 to the highest of any system."""
    rows = [
        [f"`{f['name']}`", str(f["points"]), *(text(f["volumes"][cost]) for cost in COSTS)]
        for f in sorted(report["frontiers"]["families"], key=lambda f: -f["volumes"]["kl"]["mean"])
    ]
    return table(["method", "settings", *(f"by {cost}" for cost in COSTS.values())], rows)


def rates(report: dict[str, Any]) -> str:
    """Learning rates that were tried for every method, with the proxy reward at each; the chosen one is bold."""
    rows = []
    for entry in report["tuning"]["entries"]:
        tries = [f"{one['learning_rate']:.2g}: {text(one['proxy'])}" for one in entry["tries"]]
        tries = [f"**{shown}**" if one["chosen"] else shown for one, shown in zip(entry["tries"], tries)]
        rows.append(
            [f"`{entry['name']}`", *tries, text(entry["gain"]) if entry["gain"] else "-", f"{entry['seconds']:.0f}"]
        )
    count = max(len(entry["tries"]) for entry in report["tuning"]["entries"])
    return table(["method", *(f"rate {i + 1}" for i in range(count)), "less its own rate", "seconds"], rows)


def rounds(report: dict[str, Any]) -> str:
    """Rounds of iterate."""
    rows = [
        [str(r["round"]), str(r["rows"]), text(r["gold"]), text(r["reward"]), f"{r['distinct_2']:.2f}"]
        for r in report["iterate"]["rounds"]
    ]
    return table(["round", "rows", "gold reward at best", "proxy", "distinct-2"], rows)


def main(folder: Path) -> None:
    """Print the circumstances and the tables that there are."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    budget = report["budget"]
    print(
        f"`{report['command']}`\n\n{report['created']}, commit {report['commit']}, {report['machine']}; "
        f"{report['seeds']} repetition{'s' * (report['seeds'] > 1)} on {budget['model']}, "
        f"of {budget['parameters']:,} parameters; "
        f"{report['prompts']} held-out prompts, {budget['rows']} training rows, {budget['steps']} optimizer steps of "
        f"{budget['batch_size']}. {' '.join(report['notes'])}\n"
    )
    asked = any(d["name"] == "conditional" for d in report["dials"])
    more = [f"Area under the frontier of gold reward, in sd:\n\n{frontiers(report)}"] if report.get("frontiers") else []
    more += [rates(report)] if report.get("tuning") else []
    more += [rounds(report)] if report["iterate"] else []
    print("\n\n".join([*([dials(report)] if asked else []), systems(report), *more]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
