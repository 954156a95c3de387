"""Make a language model steerable from logged data, and compare that honestly with the alternatives."""

__version__ = "0.1.0"
