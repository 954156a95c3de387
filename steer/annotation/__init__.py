"""Labelling pairs of responses by annotators."""
