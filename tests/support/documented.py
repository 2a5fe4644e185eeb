"""The shapes of JSON that docs/commands.md promises."""

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def documented(command: str) -> Any:
    """The example that follows ``command`` on the page."""
    after = PAGE.read_text(encoding="utf-8").partition(f"`{command}`")[2]
    block = re.search(r"```json\n(.*?)```", after, re.DOTALL)
    assert block, command
    return json.loads(block[1])


def differences(found: Any, example: Any, place: str = "$") -> list[str]:
    """Where *found* is not of the shape of *example*; null stands for what may be missing."""
    match found, example:
        case dict(), dict():
            wrong = [f"{place}.{key}" for key in found.keys() ^ example.keys()]
            return wrong + [
                line
                for key in found.keys() & example.keys()
                for line in differences(found[key], example[key], f"{place}.{key}")
            ]
        case list(), list():
            of = example[0] if example else None
            return [line for n, item in enumerate(found) for line in differences(item, of, f"{place}[{n}]")]
        case _ if found is None or example is None:
            return []
    return [] if type(found) is type(example) else [f"{place}: {type(found).__name__}"]
