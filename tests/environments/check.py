"""Exports against stock libraries, and the tests against other versions, each in an environment of its own.

    python tests/environments/check.py adapters      # stock adapters and peft load the exports; logits compared
    python tests/environments/check.py oldest        # some of the tests, on the lowest versions that are admitted

An environment is made once, under runs/environments, from `tests/environments/NAME.txt`; this needs a package registry
(exit code 77 without one). Environments with pytest run TESTS; all of them read the exports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path(__file__).resolve().parent
HERE = ROOT / "runs" / "environments"
NO_REGISTRY = 77
WITHIN = 1e-5  # of the largest logit, as adamix_lab.core.numerics.REORDERED has it: other libraries sum in other orders
# What depends on the versions most: wrapping, families, hooks on blocks, saving, exports, the authors' vectors.
TESTS = """test_mixture test_model test_merging test_saving test_sites test_views test_blocks
test_reference test_export test_authors test_peft test_checkpointing test_training test_checkpoints
test_backbones""".split()


def python_of(name: str) -> Path:
    """The environment's interpreter; made if it is not there. Exits with 77 where packages cannot be fetched."""
    folder = Path(os.environ.get("ADAMIX_LAB_ENVIRONMENTS", HERE)) / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = (PLACE / f"{name}.txt").read_text(encoding="utf-8")
    stamp = folder / "installed.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    proxies = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    install = [python, "-m", "pip", "install", "-q", "-r", PLACE / f"{name}.txt"]
    done = subprocess.run(install, capture_output=True, text=True, env=proxies)
    if done.returncode:
        print(
            f"no environment {name!r}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'pip failed'}"
        )
        raise SystemExit(NO_REGISTRY)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def rows_of(python: Path | str, script: str, path: str | None) -> list[dict]:
    """The JSON lines that a script beside this one prints about the exports. path: where Python looks for packages."""
    HERE.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONPATH", None)
    environment |= {"PYTHONPATH": path} if path else {}
    command = [python, PLACE / script, HERE / "exports"]
    out = subprocess.run(command, check=True, env=environment, cwd=HERE, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def make_exports() -> list[dict]:
    """Exports of every architecture for every library, by this interpreter; a row a case."""
    return rows_of(sys.executable, "make.py", str(ROOT))


def read_exports(python: Path) -> dict:
    """What an environment's libraries answered on the exports: versions, a row a case, and the rows that are wrong."""
    versions, *rows = rows_of(python, "read.py", None)
    for row in rows:
        case = f"{row['architecture']:12}{row['library']:14}{row['adaptation']:12}"
        print(f"{case}{row['difference']:.2g}, largest logit {row['largest_logit']:.2g}", flush=True)
    wrong = [row for row in rows if not row["difference"] <= WITHIN * row["largest_logit"]]  # NaN is wrong, too
    return {"versions": versions, "exports": rows, "wrong": wrong}


def run_tests(python: Path) -> str:
    """pytest's closing line on TESTS, by the environment's interpreter."""
    command = [python, "-m", "pytest", "-q", "-m", "not slow and not browser", "-p", "no:cacheprovider"]
    places = {path.stem: path for path in (ROOT / "tests").rglob("test_*.py")}
    files = [places[name] for name in TESTS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ADAMIX_LAB_DATA": str(ROOT / "data")}
    done = subprocess.run([*command, *files], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout[-4000:])
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else f"pytest ended with {done.returncode}"


def check(name: str) -> dict:
    """Everything an environment is for, as a record."""
    python = python_of(name)
    make_exports()
    record = {"environment": name, **read_exports(python)}
    if "pytest" in (PLACE / f"{name}.txt").read_text(encoding="utf-8"):
        record["tests"] = run_tests(python)
    return record


def main() -> None:
    """Prints the record as a last line; exit code 1 where anything differs."""
    record = check(sys.argv[1])
    print(json.dumps(record))
    raise SystemExit(1 if record["wrong"] or "failed" in record.get("tests", "") else 0)


if __name__ == "__main__":
    main()
