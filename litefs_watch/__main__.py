"""``python -m litefs_watch`` is ``litefs-watch``."""

from litefs_watch.cli import main

if __name__ == "__main__":
    main()
