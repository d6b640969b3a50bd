"""Files of rows that a script makes: written, or with `--check` compared with a regeneration (standard library)."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def main(parts: Mapping[Path, Sequence[Mapping]]) -> int:
    """Writes each file, whole or not at all, JSON lines, gzip where it ends in `.gz`; the exit status.

    `--check` on the command line writes nothing and gives 1 where a file differs.
    """
    status = 0
    for path, rows in parts.items():
        zipped = path.suffix == ".gz"
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_bytes(gzip.compress(data, 9, mtime=0) if zipped else data)
            os.replace(temporary, path)
            print(f"wrote {path} ({len(rows)} rows)")
        elif not path.is_file() or (gzip.decompress if zipped else bytes)(path.read_bytes()) != data:
            print(f"{path} differs from a regeneration; run python {' '.join(sys.argv)} without --check")
            status = 1
    return status
