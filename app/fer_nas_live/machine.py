"""What a process may use of this machine: cores and memory, inside a container too."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path


def _numbers(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []


def _groups(root: Path, controller: str) -> list[Path]:
    """This process's control group and those above it, in version 2 and in version 1's `controller`."""
    found = [root, root / controller]
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for line in lines:
        _, names, place = [*line.split(":", 2), "", ""][:3]
        top = root if not names else root / controller if controller in names.split(",") else None
        folder = Path(place.lstrip("/"))
        if top is not None and place:
            found += [top / folder, *(top / parent for parent in folder.parents)]
    return list(dict.fromkeys(found))


def usable_cores(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may run on: its affinity, cut to its control groups' CPU quota (rounded up)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups(root, "cpu"):
        quota = _numbers(group / "cpu.max")  # version 2: "quota period" or "max period"
        if not quota:
            quota = _numbers(group / "cpu.cfs_quota_us") + _numbers(group / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
            cores = min(cores, max(1, math.ceil(int(quota[0]) / int(quota[1]))))
    return cores


def resident_memory() -> int:
    """Bytes of memory that this process holds now; where that cannot be told, the most that it ever held, or 0."""
    words = _numbers(Path("/proc/self/statm"))
    if len(words) > 1:
        return int(words[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory(root: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes this process can still take, within the control group's limit; None where it cannot be told."""
    free = _free_of_machine(meminfo)
    for group in _groups(root, "memory"):
        for limit_file, use_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, use = _numbers(group / limit_file), _numbers(group / use_file)
            if limit and use and limit[0].isdigit() and use[0].isdigit():
                left = max(0, int(limit[0]) - int(use[0]))
                free = left if free is None else min(free, left)
    return free


def _free_of_machine(meminfo: Path) -> int | None:
    words = _numbers(meminfo)
    if "MemAvailable:" in words:
        return int(words[words.index("MemAvailable:") + 1]) * 1024
    if sys.platform == "win32":
        import ctypes

        class Status(ctypes.Structure):
            _fields_ = (
                ("length", ctypes.c_ulong),
                ("load", ctypes.c_ulong),
                *((name, ctypes.c_ulonglong) for name in ("total", "free", "c", "d", "e", "f", "g")),
            )

        status = Status(length=ctypes.sizeof(Status))
        if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            return int(status.free)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
