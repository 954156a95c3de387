"""Every method by name. Adding one: a file here, a line in METHODS, a test file, a row in docs/methods.md."""

import sys
from collections.abc import Sequence

from steer.errors import SteerError
from steer.methods import (
    a_lol,
    apo,
    awr,
    bco,
    binary_reward_conditioning,
    bond,
    c_rlft,
    coh,
    conditional,
    contrastive,
    cpo,
    directional,
    dpo,
    dpop,
    expert_iteration,
    feedme,
    filtered,
    gedi,
    grpo,
    ipo,
    kto,
    mle,
    odpo,
    orpo,
    ppo,
    pro,
    quark,
    raft,
    rebel,
    rejection,
    remax,
    rest_em,
    reward_augmented,
    rloo,
    rpo,
    rrhf,
    rso,
    rwr,
    simpo,
    slic,
    spin,
    sppo,
    steerlm2,
    unlikelihood,
)
from steer.methods.base import ROWS, Method
from steer.settings import did_you_mean, explained

METHODS: dict[str, Method] = {
    "mle": mle.METHOD,
    "filtered": filtered.METHOD,
    "feedme": feedme.METHOD,
    "rwr": rwr.METHOD,
    "awr": awr.METHOD,
    "a-lol": a_lol.METHOD,
    "unlikelihood": unlikelihood.METHOD,
    "raft": raft.METHOD,
    "rejection": rejection.METHOD,
    "expert-iteration": expert_iteration.METHOD,
    "rest-em": rest_em.METHOD,
    "dpo": dpo.METHOD,
    "contrastive": contrastive.METHOD,
    "ipo": ipo.METHOD,
    "slic": slic.METHOD,
    "rso": rso.METHOD,
    "simpo": simpo.METHOD,
    "orpo": orpo.METHOD,
    "cpo": cpo.METHOD,
    "odpo": odpo.METHOD,
    "rpo": rpo.METHOD,
    "rebel": rebel.METHOD,
    "apo": apo.METHOD,
    "dpop": dpop.METHOD,
    "spin": spin.METHOD,
    "sppo": sppo.METHOD,
    "kto": kto.METHOD,
    "bco": bco.METHOD,
    "rrhf": rrhf.METHOD,
    "pro": pro.METHOD,
    "bond": bond.METHOD,
    "remax": remax.METHOD,
    "rloo": rloo.METHOD,
    "grpo": grpo.METHOD,
    "ppo": ppo.METHOD,
    "conditional": conditional.METHOD,
    "binary-reward-conditioning": binary_reward_conditioning.METHOD,
    "c-rlft": c_rlft.METHOD,
    "coh": coh.METHOD,
    "gedi": gedi.METHOD,
    "quark": quark.METHOD,
    "directional": directional.METHOD,
    "reward-augmented": reward_augmented.METHOD,
    "steerlm2": steerlm2.METHOD,
}

# Peak learning rates of likelihood methods on a base of WIDTH, by what is trained; other methods take a share of it.
LIKELIHOOD_RATES = {"lora": 2e-4, "qlora": 2e-4, "qlora8": 2e-4, "none": 2e-5}
WIDTH, POWER = 4096, 0.775


def likelihood_rate(adapter: str, width: int) -> float:
    """Peak learning rate of likelihood methods: narrower bases take higher ones, to two digits.

    `width`: of the base's states. The power is what "LoRA Without Regret" (Schulman et al., 2025) fitted to models of
    Llama; at widths of 96 and 576 it gives what was found here (docs/results.md).
    """
    return float(f"{LIKELIHOOD_RATES[adapter] * (WIDTH / width) ** POWER:.1e}")


def peak_rate(name: str, likelihood: float, share: float | None = None) -> float:
    """A method's peak learning rate: a share (by default its own) of the rate of likelihood methods."""
    return likelihood * (METHODS[name].rate if share is None else share)


def method_of(name: str) -> Method:
    """Return a method by name; SteerError, with the known names, for an unknown one."""
    if name not in METHODS:
        raise SteerError(f"unknown method '{name}'; {did_you_mean(name, METHODS)}")
    return METHODS[name]


def foreign(name: str) -> bool:
    """Whether policies of a method have targets that are no levels of what is scored; False for an unknown method."""
    return name in METHODS and METHODS[name].reframes


def table() -> str:
    """Table of the methods and what they need, one a line, as `steer methods` prints it."""
    head = ("method", "condition", "reference", "fresh responses", "rate", "rows", "settings", "what it is")
    lines: list[tuple[str, ...]] = [head]
    for name, method in METHODS.items():
        settings = ", ".join(f"{setting}={default}" for setting, default, *_ in explained(method.settings)) or "-"
        yes = ["yes" if x else "no" for x in (method.conditioned, "ref" in method.needs)]
        lines.append((name, *yes, method.fresh, f"{method.rate:g}", ROWS[method.rows], settings, _about(name)))
    return aligned(lines)


def description(name: str) -> str:
    """Describe a method: what it is, the rows it wants, its share of the learning rate, and its settings."""
    method = method_of(name)
    rate = f"{method.rate:g} times that of likelihood methods"
    facts = aligned([("rows it wants", ROWS[method.rows]), ("learning rate", rate)])
    settings = explained(method.settings)
    head = ("setting", "default", "values", "meaning")
    return "\n\n".join([f"{name}: {_about(name)}", facts, aligned([head, *settings]) if settings else "no settings"])


def _about(name: str) -> str:
    """What a method is: the first line of its file, for one from outside of the file of its settings."""
    own = f"{__name__}.{name.replace('-', '_')}"
    module = sys.modules.get(own, sys.modules[METHODS[name].settings.__module__])
    return (module.__doc__ or "").split("\n", 1)[0].rstrip(".")


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Write lines of cells with each column as wide as its widest cell."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in lines)
