"""Make the embedded tasks of real text, "subjectivity" and "reviews", of the files of Subj and MR that they came from.

    python data/real.py FOLDER            # FOLDER holds subj/ and mr/; writes the parts below data/
    python data/real.py FOLDER --check    # writes nothing; exit status 1 if the files differ from a regeneration

The rows to be judged on stay as they were. Subj's training file is sorted by class, so it is shuffled once (MR's was);
then two parts of 1,000 rows each are cut off the end of the training rows: `fresh` and, last, `sealed`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import sys
from pathlib import Path

import generated

HERE = Path(__file__).resolve().parent
SEED = 20220524
CUT = 1000
SHUFFLED = "subjectivity"
DIGESTS = {  # of the unpacked source files
    "subjectivity": {
        "subj/train": "bc7ffdd69ff1db479248c4851f3c81492c348ca528b7004f573b087f8d911640",
        "subj/test": "0230abf904a1ecc382f20b4faf9149edea0361a4e9222c4488ced90ff4ac3759",
    },
    "reviews": {
        "mr/train": "adb2a0587bf5eaee2ba15400438d22964d378f7b5da7ffbabc73bf7a1787d1f1",
        "mr/test": "bc7947b07614aef10a6b2b80128a2007d2b57b164e958526bfeedbcbd59bedfb",
    },
}


def rows_of(path: Path, digest: str) -> list[dict]:
    """A source file's rows: sentence and label. Exits where it is not the file that the parts were cut from."""
    data = gzip.decompress(path.read_bytes())
    if hashlib.sha256(data).hexdigest() != digest:
        sys.exit(f"{path} is another file than the one that the embedded task was made of: expected sha256 {digest}.")
    rows = map(json.loads, data.decode().splitlines())
    return [{"sentence": row["sentence"], "label": row["label"]} for row in rows]


def parts_of(name: str, folder: Path) -> dict[str, list[dict]]:
    """The four parts of an embedded task."""
    train, test = (rows_of(folder / f"{file}.jsonl.gz", digest) for file, digest in DIGESTS[name].items())
    if name == SHUFFLED:
        random.Random(SEED).shuffle(train)
    return {"train": train[: -2 * CUT], "fresh": train[-2 * CUT : -CUT], "sealed": train[-CUT:], "test": test}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    tasks = {name: parts_of(name, Path(sys.argv[1])) for name in DIGESTS}
    files = {HERE / name / f"{part}.jsonl.gz": rows for name, parts in tasks.items() for part, rows in parts.items()}
    sys.exit(generated.main(files))
