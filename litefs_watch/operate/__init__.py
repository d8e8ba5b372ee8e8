"""For those who operate it: what the watcher knows, in words."""
