"""What decides: the readings, what follows from them, and who is woken. No event loop, no clock, no files."""
