"""Two processes that share each batch end as one does; a killed one ends the run with a clear line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fer_nas import parallel
from fer_nas.artifacts import RunFolder
from fer_nas.errors import InputError
from fer_nas.runtime import load_checkpoint

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port")
SEARCH = (
    "search", "--preset", "tiny", "--space", "fer", "--channels", "4", "--layers", "1", "--image-size", "16",
    "--batch-size", "8", "--limit", "40", "--stem", "stride2", "--learning-rate", "0.025",
    "--arch-learning-rate", "3e-4", "--device", "cpu",
    "--threads", "1",
)  # fmt: skip


def port(place: int) -> str:
    return str(20000 + (os.getpid() * 7 + place) % 20000)


def start(place: int, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, port(place), "-m", "fer_nas", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def alone(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "fer_nas", *map(str, words)], check=True, capture_output=True)


@pytest.mark.parametrize(("method", "epochs"), [("darts-1st", 10), ("darts-2nd", 1), ("darts-stn", 1)])
def test_two_processes_search_as_one_does(method: str, epochs: int, cases: Path, tmp_path: Path) -> None:
    """By gloo; an epoch has two steps, so that first order makes 20; one with --recompute. Rates as published: larger
    ones let rounding grow from step to step."""
    words = (*SEARCH, "--data", cases / "fer.csv", "--method", method, "--epochs", epochs, "--seed", 3)
    saver = ["--recompute"] if method == "darts-2nd" else []
    process = start(1, *words, *saver, "--out", tmp_path / "two")
    alone(*words, "--out", tmp_path / "one")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-2000:]
    assert out.count("validation accuracy") == 1, "only the first process speaks"
    one, two = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("one", "two"))
    steps = int(next(iter(one["arch_optimizer"]["state"].values()))["step"])
    assert steps == 2 * epochs
    assert torch.allclose(one["arch"], two["arch"], atol=1e-5, rtol=0)
    assert one["arch"].abs().max() > 1e-3, "λ has moved"
    first, second = (RunFolder(tmp_path / name).metrics()[-1] for name in ("one", "two"))
    assert first["train_loss"] == pytest.approx(second["train_loss"], abs=1e-3)


def test_two_processes_train_as_one_does(cases: Path, tmp_path: Path) -> None:
    words = (
        "train", "DARTS_V2", "--data", cases / "fer.csv", "--preset", "tiny", "--channels", 4, "--layers", 2,
        "--image-size", 16, "--batch-size", 8,
        "--limit", 40, "--epochs", 2, "--device", "cpu", "--threads", 1, "--learning-rate", 0.02,
    )  # fmt: skip
    process = start(2, *words, "--out", tmp_path / "two")
    alone(*words, "--out", tmp_path / "one")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-2000:]
    assert out.count("run ") == 1
    one, two = (load_checkpoint(tmp_path / name / "checkpoint.pt")["network"] for name in ("one", "two"))
    for name, value in one.items():
        assert torch.allclose(value.double(), two[name].double(), atol=2e-3, rtol=1e-2), name


def children(process: subprocess.Popen[str]) -> list[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found if "fer_nas" in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
def test_a_killed_process_ends_the_run_and_resume_goes_on(cases: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(3, *SEARCH, "--data", cases / "fer.csv", "--epochs", 400, "--out", run)
    deadline = time.monotonic() + 120
    while not (run / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (run / "checkpoint.pt").exists(), process.communicate(timeout=10)[1][-2000:]
    os.kill(children(process)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    lines = [line for line in err.splitlines() if line.startswith("fer-nas: ")]
    assert lines and all(
        "another process of this run has stopped" in line or "stopped; go on" in line for line in lines
    )
    epoch = load_checkpoint(run / "checkpoint.pt")["progress"][0]
    again = start(4, "search", "--resume", run)
    deadline = time.monotonic() + 120
    while load_checkpoint(run / "checkpoint.pt")["progress"][0] == epoch and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in children(again):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    again.communicate(timeout=60)
    assert load_checkpoint(run / "checkpoint.pt")["progress"][0] > epoch


def test_one_process_alone() -> None:
    value = torch.ones(3, requires_grad=True)
    assert parallel.count() == 1 and parallel.number() == 0
    weights, more = parallel.replicated({"w": value}, value)
    assert weights["w"] is value and more[0] is value and parallel.everywhere(value) is value
    assert parallel.rows((value,)) == (value,) and parallel.shared_mean(value, 3) is value


def test_batches_that_are_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "count", lambda: 4)
    parallel.refuse_small_batches([(0, 8), (8, 12)])
    with pytest.raises(InputError, match=r"--batch-size: the smallest batch of an epoch has 3 images for 4 processes"):
        parallel.refuse_small_batches([(0, 8), (8, 11)])
