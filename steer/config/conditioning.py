"""The command line of `steer targets`: its settings, paths and flags."""

from __future__ import annotations

from dataclasses import dataclass

from steer.settings import argument, option


@dataclass(frozen=True)
class TargetsConfig:
    """`steer targets`."""

    policy: str = argument("Folder of `steer train`, or of `steer label`.")
    target: str = option("", "Count only rows at these levels: what is supported beside them.")
    weights: str = option(
        "", "Preferences such as `helpful=.7,verbosity=-.3`: prints the best supported trade-offs for them."
    )
    top: int = option(10, "Combinations to print.", least=1)
