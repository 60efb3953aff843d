"""The two kinds of failure a user meets, each one line long (standard library only)."""


class FerNasError(Exception):
    """A run that failed: the command prints the message and exits with 1."""

    exit_code = 1


class InputError(FerNasError, ValueError):
    """Something the user gave is not usable: says what, where and what to do; exit code 2."""

    exit_code = 2
