"""``notifierd`` that says at its end what memory it had at most: ``python -P tests/support/peak.py FILE once ...``."""

import re
import sys
from pathlib import Path

from notifierd.cli import main


def peak() -> int:
    """In bytes: VmHWM, proc(5). (The kernel's ru_maxrss would count the memory of the process that made this one.)"""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    said = Path(sys.argv.pop(1))
    try:
        main.main()
    finally:
        said.write_text(str(peak()), encoding="ascii")
