"""Report of a comparison: `report.json`, `report.md` and `report.html`, a self-contained page.

`write` and `table` take one dict, made by `steer.comparison.command`. An interval is {"mean", "low", "high", "n"},
null where undefined. Rewards are in standard deviations of the logs, or of what `unit` names. Lists may be empty.

    title, command, commit, machine, created: str;  seeds, prompts: int;  notes, commands: [str]
    gold, proxy: scorers;  gold_is_proxy: bool, the report then says that it judges with the scorer that trained
    budget: rows, steps, batch_size, model, parameters
    behaviour: reward_sd_raw;  names [A];  attributes {name: {mean, sd}};  correlation [A][A]
    counted: absent, or the attributes that the reward counts; without any there are no rewards
    intended: absent, or the system that was to be the baseline
    systems: [name, method, settings, target;  seeds, rounds: int;  gold, proxy, words: interval;
              attributes {name: interval of gold score};
              difference: null, or interval of the paired gold reward less the baseline's, p_holm: its corrected
              p-value, verdict: "yes" if it is shown to be above 0, "no" if below, "not told apart" or "-" where it is
              unknown, least: the smallest true difference that would have been shown with a chance of .8, over: what
              the interval is over, one_seed: that it is not judged, for one of the two has one seed of several;
              kl: interval in nats, or null;
              distinct_2, finished, leaked, ess: float or null;  train_tokens, generated: int;
              answer_tokens: tokens read and drawn for an answer, or null]
    seconds: {name of a system: seconds of its training};  nothing but these, frontiers against them and the seconds of
              tuning differs between equal runs of one day
    frontiers: absent or null, or most: {cost: its end};  families: [name;  points: int;  volumes {cost: interval};
              cut_off: share or null], for the costs kl, words, seconds, tokens and answer_tokens;  left_out: [name,
              reason]
    choices: absent, or [name;  gain: as difference], the best of n less one of the same n at random
    dials: [name;  result of `controllability`;  targets: int;  shown: absent, or what the levels of each attribute are
            called;  less: null or {name;  slopes {attribute: as
            difference}}, the partial slopes less those of the dial with this name], "permuted" in the name marks a
            negative control
    tuning: absent or null, or prompts, rows: int;  proxy;  entries: [name;  tries: [learning_rate, proxy: interval or
            null where the run failed, chosen, own: bool];  gain: interval of the chosen over the method's own rate, or
            null;  edge: bool;  unscored: prompts left out;  runs, failed, answers, steps, tokens, drawn, scored,
            seconds]
    samples: [prompt;  answers: [name, text, scores {attribute: float}]]
    guidance: absent, or the curve of `steer.evaluation.guidance`
    iterate: null or {rounds: [round, rows;  reward, gold, kl: interval or null;  distinct_2;  target];
             kept: a round;  stopped: why a guard ended the loop, empty if none did;  ended: [str], both in words}
    failures: [name, error]
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from steer.labelling.scorer import COUNTABLE
from steer.report import dials, judges, page, samples
from steer.report.cells import Report, counted, finite, is_control
from steer.report.compared import budget, compared, comparison, headline, taken
from steer.report.guided import guided
from steer.report.page import Raw, Section, Table
from steer.report.tuned import tuned
from steer.run_folder import write_json, write_text

__all__ = ["Report", "headline", "table", "write", "write_loop"]


def write(report: Report, folder: Path) -> Path:
    """Write report.json, report.md and report.html into the folder; return the path of the last."""
    report = finite(report)
    sections: list[Section] = [(title, [b for b in blocks if b]) for title, blocks in _sections(report)]
    warning = _warning(report)
    return _written(report, folder, _facts(report), [*warning, *headline(report)], sections, warned=bool(warning))


def write_loop(report: Report, folder: Path) -> Path:
    """Write the report of iteration alone: title, command, commit, machine, created, hashes, commands and `iterate`."""
    report = finite(report)
    loop = report["iterate"]
    machine = [("Machine", report["machine"]), ("Commit, date", f"{report['commit']}, {report['created']}")]
    inputs = Table("Machine and inputs.", ("Name", "Value"), [*machine, *report["hashes"].items()], prose=True)
    sections: list[Section] = [("Rounds", samples.over_rounds(loop)), ("Inputs", [inputs]), _commands(report)]
    rounds = counted(loop["rounds"][-1]["round"], "round")
    facts = f"{report['created']} · {rounds} · {counted(loop['rounds'][0]['reward']['n'], 'held-out prompt')}"
    return _written(report, folder, facts, loop["ended"], sections, warned=False)


def _written(
    report: Report, folder: Path, facts: str, lead: list[str], sections: list[Section], *, warned: bool
) -> Path:
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", page.markdown(report["title"], lead, sections))
    write_text(folder / "report.html", page.html(report["title"], facts, lead, sections, warned=warned))
    return folder / "report.html"


def _commands(report: Report) -> Section:
    commands = "\n".join([report["command"], *report["commands"]])
    return "Repeat it", [Raw(f"<pre><code>{escape(commands)}</code></pre>", "    " + commands.replace("\n", "\n    "))]


def _facts(report: Report) -> str:
    seeds, prompts = counted(report["seeds"], "seed"), counted(report["prompts"], "held-out prompt")
    failed = f" · {counted(len(report['failures']), 'run')} failed" if report["failures"] else ""
    return f"{report['created']} · {seeds} · {prompts}{failed}"


def table(report: Report) -> str:
    """Format the headline, the comparison and what each dial obtained as aligned text for the terminal."""
    report = finite(report)
    if not report["gold"]:
        return "\n".join([*headline(report), *judges.silent(report), "", *judges.rates(report)]) + "\n"
    full = comparison(report)
    columns = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12)  # no seconds: equal runs print the same
    rows = [[row[j] for j in columns] for row in (full.head, *full.rows)]
    lines = _aligned(rows)
    rates = judges.rates(report, but=report["gold"])  # what gold prefers is what the table shows
    lines += ["", *rates] if rates else []
    for dial in report["dials"]:
        if not is_control(dial):
            found = dials.obtained(dial)
            lines += ["", found.caption, *_aligned([found.head, *found.rows])]
    return "\n".join([*_warning(report), *headline(report), *judges.silent(report), "", *lines]) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Write rows of equal length as lines, names to the left and figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _warning(report: Report) -> list[str]:
    text = f"This report judges with the scorer that trained ({report['gold']}): name another gold scorer to trust it."
    counted = report["gold"].startswith(COUNTABLE)  # a count is the same whoever counts
    return [text] if report["gold_is_proxy"] and not counted else []


def _sections(report: Report) -> list[Section]:
    """Return the blocks of the report in order, without empty ones."""
    steered = [d for d in report["dials"] if not is_control(d)]
    controls = [block for d in report["dials"] if is_control(d) for block in dials.control(d)]
    controls += judges.prompt_only(report)
    failed = Table(
        "Runs that failed or may not run.",
        ("Run", "Error"),
        [(f["name"], f["error"]) for f in report["failures"]],
        prose=True,
    )
    loop = report["iterate"]
    sections: list[Section] = [
        ("Comparison", compared(report)),
        ("Win-rates", judges.preferred(report)),
        ("Dial", [*dials.side_by_side(steered), *(block for d in steered for block in dials.blocks(d))]),
        ("Leakage", [block for d in steered for block in dials.leakage(d, report["behaviour"])]),
        ("Scorer", judges.scorer(report)),
        ("Negative controls", controls or ["No control was run."]),
        ("Guidance", guided(report["guidance"]) if report.get("guidance") else []),
        ("Samples", samples.side_by_side(report["samples"])),
        ("Iterate", [*loop["ended"], *samples.over_rounds(loop)] if loop else []),
        ("Learning rates", tuned(report["tuning"]) if report.get("tuning") else []),
        ("Budget", [*([budget(report)] if report["budget"] else []), *taken(report)]),
        ("Failures", [failed if report["failures"] else "No run failed."]),
        _commands(report),
    ]
    return [(title, blocks) for title, blocks in sections if blocks]
