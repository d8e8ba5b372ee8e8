"""Figures, each beside a baseline of the same run: ``python -m benchmarks wake|waiters|blocking|idle|http|imports``."""
