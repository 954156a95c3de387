"""Launch scripts as torchrun does on one machine, in processes that are forked from one that has imported everything.

Importing takes each process that torchrun starts ten times as long as a toy training. A launch is a line on standard
input: the script, its words, environment variables, the number of processes; `ended` and the worst exit code follow
what they print.
"""

import json
import os
import runpy
import socket
import sys
import traceback

import peft
import transformers

import steer.training.command

IMPORTED = (peft.PeftModel, transformers.LlamaForCausalLM, steer.training.command)  # some are imported when named


def launch(script: str, words: list[str], variables: dict[str, str], count: int) -> int:
    """Run a script in processes that find each other; return the worst exit code."""
    with socket.socket() as held:  # bound but not listening, so nobody else is given the port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(held.getsockname()[1])}
        shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        ranks = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        children = [forked(script, words, variables | (rank if count > 1 else {})) for rank in ranks]
        return max(os.waitpid(child, 0)[1] for child in children)  # whoever waits for one that died fails too


def forked(script: str, words: list[str], variables: dict[str, str]) -> int:
    """Run a script in a process of its own; return its id."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        os.environ |= variables
        sys.argv = [script, *words]
        runpy.run_path(script, run_name="__main__")
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        print("ended", launch(**json.loads(line)), flush=True)
