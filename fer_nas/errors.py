"""The two kinds of failure a user meets, each one line long (standard library only)."""


class FerNasError(Exception):
    """A run that failed: the command prints the message and exits with 1."""

    exit_code = 1


class InputError(FerNasError, ValueError):
    """Something the user gave is not usable: says what, where and what to do; exit code 2."""

    exit_code = 2


def unusable_model(path: object, error: Exception) -> InputError:
    """The one text for a file that onnxruntime cannot open or run; its messages have a code before the reason."""
    reason = str(error).split(" : ")[-1].strip().splitlines()
    return InputError(f"{path} is not a usable ONNX model: {reason[0] if reason else type(error).__name__}")
