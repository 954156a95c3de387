"""Drawing tokens: one running batch, prompts read once, and other engines."""
