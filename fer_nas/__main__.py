"""`fer-nas` and `python -m fer_nas`: the command line, and a Ctrl-C while it is still being loaded."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from fer_nas.cli import app

        app()
    except KeyboardInterrupt:
        print("fer-nas: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
