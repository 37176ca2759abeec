"""Print requirements from pyproject.toml, one a line, for pip.

Usage: requirements.py GROUP...   GROUP: build, project, or the name of an extra
"""

import sys
import tomllib
from pathlib import Path


def main(groups: list[str]) -> None:
    root = Path(__file__).resolve().parent.parent
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    known = {
        "build": table["build-system"]["requires"],
        "project": table["project"]["dependencies"],
        **table["project"]["optional-dependencies"],
    }
    for group in groups:
        if group not in known:
            sys.exit(f"requirements.py: unknown group {group!r}; known: {', '.join(known)}")
        print("\n".join(known[group]))


if __name__ == "__main__":
    main(sys.argv[1:])
