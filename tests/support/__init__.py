"""Builders that several tests share: strategies, tolerances, embedded pictures, tiny models, calls of commands."""
