"""Where and when something was measured, and with what: the head of every result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def machine(*distributions: str) -> str:
    """Date, processor, Python, and the versions of what was measured; two lines."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in distributions)
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    return f"{when}, {os.cpu_count()} cores of {cpu}, Python {platform.python_version()}\n{versions}"
