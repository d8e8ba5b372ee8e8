"""Figures, each measured beside a baseline in the same run: ``python -m benchmarks wake|waiters|blocking|idle|http``."""
