"""Expert iteration (AlpacaFarm, 2305.14387): `steer iterate --rounds 1 --n 16`, likelihood of the best of 16 responses.

Differs from the official code: prompts are those of the training split, and rounds drop responses that were cut off.
"""

from __future__ import annotations

from steer.methods import raft

METHOD = raft.METHOD
