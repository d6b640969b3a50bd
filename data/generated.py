"""Files of generated rows: written, or with `--check` compared with a regeneration (standard library alone)."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def main(folder: Path, parts: Mapping[str, Sequence[Mapping]]) -> int:
    """Writes `NAME.jsonl` for each part, whole or not at all; `--check` writes nothing. Returns the exit status."""
    parser = argparse.ArgumentParser(description=f"Makes the data set {folder.name!r}.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the files differ")
    check, status = parser.parse_args().check, 0
    for name, rows in parts.items():
        path, data = folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()
        if not check:
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_bytes(data)
            os.replace(temporary, path)
            print(f"wrote {path} ({len(rows)} rows)")
        elif not path.is_file() or path.read_bytes() != data:
            print(f"{path} differs from a regeneration; run python data/{folder.name}/generate.py", file=sys.stderr)
            status = 1
    return status
