"""``notifierd`` that says at its end which modules it loaded: ``python -P tests/support/loaded.py FILE once ...``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    before = set(sys.modules)  # what the environment itself loads, as a tool that measures coverage does
    said = sys.argv.pop(1)
    from notifierd.cli import main

    try:
        main.main()
    finally:
        loaded = sorted(name for name, module in sys.modules.items() if module is not None and name not in before)
        Path(said).write_text("\n".join(loaded), encoding="ascii")
