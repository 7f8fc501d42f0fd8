"""``python -m fastopt``."""

from fastopt.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
