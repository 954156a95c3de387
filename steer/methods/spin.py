"""Self-play fine-tuning (SPIN, 2401.01335, equation 4.7): logged responses above the policy's own.

-log sigmoid(beta delta), delta as in dpo, w a logged response and l one that the last round drew, averaged over pairs.
The reference is the policy that drew, from which every round starts.
Differs from the official code: a prompt's best logged response is taken where it has several with rewards; from the
second round on the official code mixes in the draws of the round before, from the third on it trains at a fifth of the
rate, and its fourth has beta 5. Rounds drop responses that were cut off and, without `--any-form`, malformed ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from steer.errors import SteerError
from steer.methods import dpo
from steer.methods.groups import Group, distinct
from steer.methods.preferences import FlipSettings
from steer.rows import Row, prompt_key
from steer.rows.identity import round_of
from steer.settings import option


@dataclass(frozen=True)
class Settings(FlipSettings):
    """Settings of spin: those of dpo, but for the pairs, which it makes in one way."""

    beta: float = option(0.1, "Strength of the pull to the reference.", above=0)
    sft: float = option(0.0, "Weight of the likelihood of the chosen response, by token.", least=0)


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Each response of the last round, below the best logged one to its prompt."""
    last = max(map(round_of, rows), default=0)
    if not last:
        raise SteerError(
            'no response was drawn by the policy itself. Run "steer iterate ROWS --method spin --model MODEL '
            '--scorer SCORER --output ROUNDS".'
        )
    logged: dict[str, Row] = {}
    for row in rows:
        if not round_of(row):
            before = logged.setdefault(prompt_key(row), row)
            if _reward(row) > _reward(before):
                logged[prompt_key(row)] = row
    drawn = [(logged.get(prompt_key(row)), row) for row in rows if round_of(row) == last]
    result = [Group((w, y), (1.0, 1.0)) for w, y in drawn if w and len(distinct((w, y))) == 2]
    if not result:
        raise SteerError(f"round {last} drew no response that differs from the logged one to its prompt.")
    return result


def _reward(row: Row) -> float:
    """Reward of a row; one that nobody rated is below all that somebody did."""
    reward = row.get("reward")
    return -math.inf if reward is None else float(reward)


METHOD = replace(
    dpo.METHOD,
    settings=Settings,
    rows="logs and draws",
    groups=groups,
    needs={"ref", "draws", "drawer"},
    draws=1,  # one for each logged response, as in algorithm 1
)
