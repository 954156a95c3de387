"""Rejection sampling fine-tuning of Llama 2 (2307.09288, section 3.2.3): the best response of *all* rounds.

Differs from the official code: none was released. With the samples of the last round only, abilities regress (ibid.).
"""

from __future__ import annotations

from dataclasses import replace

from steer.methods import raft

METHOD = replace(raft.METHOD, pool="rounds")
