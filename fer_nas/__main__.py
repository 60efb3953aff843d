"""`fer-nas` and `python -m fer_nas`: the command line, and a Ctrl-C while something is still being loaded."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def stop(number: int, frame: FrameType | None) -> None:
    """Ctrl-C: KeyboardInterrupt, but while a module is being imported the end at once.

    A KeyboardInterrupt within numpy's or matplotlib's import is swallowed, or leaves half a module behind; and while
    imports run there is nothing yet that could be lost.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os.write(2, b"fer-nas: stopped\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores it
        signal.signal(signal.SIGINT, stop)
    try:
        try:
            from fer_nas.cli import app

            app()
        finally:
            if signal.getsignal(signal.SIGINT) is stop:
                # Nothing is left to be stopped, and Python's own end would die of a Ctrl-C instead of telling 130.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        print("fer-nas: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
