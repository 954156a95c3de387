"""Learning rates that a tuning chose, as a file: `steer compare --tune` writes one, and `--rates` reads it."""

from __future__ import annotations

from pathlib import Path

from steer.errors import SteerError
from steer.run_folder import read_json

RATES = "rates.json"


def read_rates(path: str) -> dict[str, float]:
    """Read the shares of the learning rate of likelihood methods, by the entry that was tried at them.

    `path`: the folder of a comparison that tuned, or such a file. SteerError where it holds none.
    """
    file = Path(path) / RATES if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise SteerError(
            f'--rates {path}: no such file. "steer compare --tune 3 --output FOLDER" writes FOLDER/{RATES}.'
        )
    found = read_json(file)
    if not isinstance(found, dict) or not all(_positive(share) for share in found.values()):
        raise SteerError(
            f"--rates {path}: is no file of learning rates. It maps a method to its share of the rate in --train, as "
            '{"mle": 1, "dpo:after=mle": 0.05} does.'
        )
    return {str(name): float(share) for name, share in found.items()}


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
