"""Generation: prompts and targets to responses, drawn in one running batch or by another engine."""
