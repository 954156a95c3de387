"""Contrastive post-training with a data curriculum (2310.02263): DPO, easy pairs first.

A pair is easy if its rewards are far apart. The pairs are split into an easier and a harder half; the share of a step
that comes from the harder one grows linearly from 0 to 1.
Differs from the official code: none was released; ease is the gap of rewards, not which two models wrote the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from steer.methods import dpo, preferences
from steer.methods.groups import Group, one_gap, pairs
from steer.rows import Row


@dataclass(frozen=True, kw_only=True)
class Settings(dpo.Settings):
    """Settings of contrastive: all pairs of a prompt include easy and hard ones."""

    pairing: str = preferences.pairing("all")


def groups(rows: Sequence[Row], settings: Settings) -> list[Group]:
    """Pairs, those with the largest gap of rewards first; ties keep the order of the rows."""
    return sorted(pairs(rows, settings.pairing), key=lambda g: g.rows[1]["reward"] - g.rows[0]["reward"])


METHOD = replace(
    dpo.METHOD,
    rows="pairs",
    groups=groups,
    settings=Settings,
    needs={"ref", "curriculum"},
    caveat=one_gap,
)
