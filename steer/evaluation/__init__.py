"""Evaluation: what was obtained against what was asked, and how sure one can be of it."""
