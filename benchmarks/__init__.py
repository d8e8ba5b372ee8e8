"""Figures, each beside a baseline in the run: ``python -m benchmarks wake|burst|waiters|blocking|idle|http|imports``."""
