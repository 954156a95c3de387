"""What training does with thoughts: their place, the option that turns them on, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steer.conditioning.condition import TEMPLATES
from steer.conditioning.switches import KNOWN, parsed_options, switch_of, with_defaults, word_of
from steer.errors import SteerError
from steer.methods.base import Method
from steer.models.card import Card
from steer.models.policy import Policy
from steer.models.tokenization import Tokens
from steer.progress import note
from steer.rows import Row
from steer.settings import THINKS
from steer.training.batches import Conditioning
from steer.training.settings import TrainSettings


def check_thinking(name: str, method: Method, conditioning: Conditioning | None, thinking: str) -> None:
    """Refuse a policy that thinks where its condition or its responses would have no place."""
    if thinking not in THINKS:
        return
    if method.on_policy:
        raise SteerError(f"--thinking {thinking}: {name} draws its own responses, without thoughts. Use drop.")
    if conditioning and not TEMPLATES[conditioning.template].in_turn:
        raise SteerError(
            f"--thinking {thinking}: a condition in {conditioning.template} stands directly before the answer, where "
            "generation cannot put it after a thought. Use --template words, or --thinking drop."
        )


def give_options(policy: Policy, rows: Sequence[Row], options: TrainSettings) -> dict[str, Any]:
    """Set the values that the policy's chat template is always given, and return them.

    They are those of --template-option, else of the policy of --init; and, where thoughts are trained behind and the
    template only thinks when asked, the option that asks. SteerError for one that the template does not read.
    """
    tokenizer = policy.tokenizer
    given = parsed_options(options.template_option, str(tokenizer.chat_template))
    if options.init and not given:
        given = dict(Card.load(Path(options.init)).template_options)
    tokenizer.chat_template = with_defaults(tokenizer.chat_template, given)
    thoughts = options.thinking in THINKS and any(row.get("reasoning_content") for row in rows)
    named = {name for name, _, _ in KNOWN} & given.keys()
    switch = switch_of(tokenizer) if thoughts and not named else None
    if switch and not switch.default:
        given[switch.name] = switch.on
        tokenizer.chat_template = with_defaults(tokenizer.chat_template, {switch.name: switch.on})
        value = str(switch.on).lower()
        note(
            f"--template-option {switch.name}={value}: the chat template only thinks when asked; training, generation "
            "and export ask it to, where a row does not say."
        )
    return given


def say_thoughts(rows: Sequence[Row], thinking: str, tokens: Tokens) -> None:
    """Note how many thoughts are not trained on, and how many prompts ask for the contrary in a word."""
    learned = thinking in THINKS
    count = 0 if learned else sum(bool(row.get("reasoning_content")) for row in rows)
    if count:
        note(f"{count} of {len(rows)} responses have a thought that is not trained on (--thinking keep or learn).")
    if tokens.untold:
        note(f"{tokens.untold} thoughts are not trained on: the model's chat template prints none.")
    if not learned and (asked := sum(word_of(row["prompt"]) == "/think" for row in rows)):
        note(f"{asked} prompts ask for a thought in a word (/think); their answers have none (--thinking {thinking}).")
    thought = (row for row in rows if learned and row.get("reasoning_content"))
    if forbidden := sum(word_of(row["prompt"]) == "/no_think" for row in thought):
        note(f"{forbidden} responses are trained after a thought, which their prompts forbid in a word (/no_think).")
