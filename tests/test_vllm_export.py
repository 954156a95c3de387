"""vLLM serves an export as steer generates from its policy; run where vLLM is installed (its CPU build does)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from data_recipes import world_model
from steer.conditioning.chat import asked
from steer.config.export import ExportConfig
from steer.export.command import export_command
from steer.generation.engines import respond
from steer.generation.generate import held_out_prompts
from steer.generation.requests import Request, encode
from steer.models.policy import load_policy
from tests.test_export import AIMS, GREEDY, trained

VLLM = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    folder, asked = sys.argv[1], json.loads(sys.stdin.read())
    llm = LLM(folder, dtype="float32", max_model_len=256, enforce_eager=True, seed=0)
    how = SamplingParams(temperature=0.0, max_tokens=24)
    drawn = [llm.chat(m, how, use_tqdm=False, chat_template_kwargs=kwargs)[0] for m, kwargs in asked]
    print(json.dumps([[list(d.prompt_token_ids), list(d.outputs[0].token_ids)] for d in drawn]))
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: exports are served by it where it is")
@pytest.mark.parametrize("tokens", ["text", "special"])
def test_vllm_says_what_steer_says(tokens: str, labels: Path, tmp_path: Path) -> None:
    world_model.save(tmp_path / "base", layers=1)  # heads of 32 numbers: vLLM serves no smaller ones
    folder = trained(labels, tmp_path / "base", tmp_path / "policy", condition_tokens=tokens)
    export_command(ExportConfig(str(folder), str(tmp_path / "out")))
    ours = load_policy(str(folder))
    assert ours.card is not None
    assert ours.card.schema is not None
    schema, best = ours.card.schema, ours.card.schema.unasked(ours.card.attributes)
    cases = [(row, aim) for row in held_out_prompts(str(labels), 0.1, 0, 3, "train") for aim in [*AIMS[1:], best]]
    asks = [(row["prompt"], {} if aim == best else {"attributes": asked(aim, schema)}) for row, aim in cases]
    (tmp_path / "serve.py").write_text(VLLM)
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "serve.py"), str(tmp_path / "out")],
        input=json.dumps(asks), capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    for (prompt, drawn), (row, aim) in zip(json.loads(ran.stdout.splitlines()[-1]), cases):
        (ask,) = encode(ours, [Request(row, aim)], GREEDY)
        assert prompt == [*ask.prompt, *ask.condition]
        assert tuple(drawn) == respond(ours, [Request(row, aim)], GREEDY)[0].ids
