"""What applications call: the watcher for an event loop, for threads, and for any event loop over the threads' one."""
