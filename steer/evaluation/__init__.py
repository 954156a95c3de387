"""Evaluation: levels obtained against levels asked for, rewards and win-rates, with intervals."""
