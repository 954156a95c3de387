"""Binary reward conditioning (AlpacaFarm, 2305.14387, appendix A.1): likelihood given chosen or rejected.

-log p(y | x, z): both responses of every pair, the chosen one conditioned on the `reward` 1 and the rejected one on 0;
answers are drawn at 1. The condition is this one, whatever levels the rows have.
Differs from the official code: none of this method was released. The paper puts a token before the prompt, here the
condition stands where the template has it; it trains on from a supervised policy, `after=mle` in a comparison; and
conditions are dropped at random, as in every conditioned method here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from steer.methods import conditional
from steer.methods.groups import pairs
from steer.methods.preferences import Pairing
from steer.rows import Row
from steer.rows.schema import REWARD, Attribute, Schema

Settings = Pairing
CHOSEN = Attribute(REWARD, 0.0, 1.0, edges=(0.5,), shown=("0", "1"), centres=(0.0, 1.0))


def binary(rows: Sequence[Row], schema: Schema, settings: Settings) -> tuple[list[Row], Schema]:
    """Take both responses of every pair, 1 and 0 in place of their levels; and the schema of these two."""
    formed = [group.rows for group in pairs(rows, settings.pairing)]
    made = [{**row, "levels": {REWARD: level}} for two in formed for row, level in zip(two, (1, 0))]
    return made, Schema((CHOSEN,), {}, schema.minimum).recounted(made)


METHOD = replace(conditional.METHOD, rows="pairs", settings=Settings, condition=binary)
