"""What is said in the same words of several commands."""

OUTPUT = "Folder of this run; run the same command again to resume it."
OVERWRITE = "Empty the folder of an earlier run first."
SEED = "Everything random follows from it."
HELD_OUT = "Share of prompts kept for evaluation, where the rows have no split."
LIMIT = "Use the first so many rows only (0: all)."
TRUST_REMOTE_CODE = "Run code that comes with the model."
MICRO_BATCH_TOKENS = "Padded tokens in one forward pass (0: 2048 on a CPU, 8192 on a GPU)."
DTYPE = "bfloat16 on a GPU that has it, else float32."
DTYPES = ("auto", "float32", "bfloat16")
