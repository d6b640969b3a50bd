"""Command lines with a mistake, and the table of what is said to each: `python tests/bad_command_lines.py`.

Each ends in one line on stderr and exit code 2, and without torch but for those that need a model to be wrong.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "refusals.md"

NUMBERS = {
    "train": """
        --experts 0|--experts 1025|--experts 100000|--experts two|--experts -1|--size 0|--size 1.5|--seed -1
        --seed 4294967296|--seeds 0|--seeds -2|--rows 0|--rows many|--top-blocks -1|--label-noise 0.6
        --label-noise nan|--steps 0|--steps 1.5|--steps nan|--epochs 0|--epochs inf|--steps 3 --epochs 1
        --batch-size 0|--lr -1|--lr nan|--lr inf|--lr fast|--head-lr -1|--weight-decay nan|--side-rates down
        --side-rates down=-1|--eps -1|--warmup 1|--warmup -0.1|--warmup nan|--warmup-steps 0|--clip -1
        --clip nan|--precision bf61|--accumulate 0|--accumulate 64|--max-length 0|--bucket 0|--label-smoothing 1
        --consistency nan|--consistency -1|--consistency inf|--consistency-kind kl|--consistency-views three
        --per row|--dev-fraction 1|--dev-fraction -1|--choose-on test|--evaluate-every 0|--patience 0
        --patience 2 --dev-fraction 0|--swa 0|--swa 2|--ema 1|--ema nan|--swa 0.5 --ema 0.5|--off-route stop
        --decay none|--checkpoint-every -1|--log-every 0""",
    "posterior broken": """
        --draws 0|--draws x|--token-draws 0|--dropout -1|--routes 0|--other-rows 0|--evaluation-rows 0|--seed -1""",
    "landscape": """
        --points 0|--points 1|--points -3|--evaluation-rows 0|--batch-size 0|--seed -1|--dtype float8""",
    "ablate grid.yaml": """
        --workers 0|--threads 0|--together 0|--minutes -1|--minutes nan|--steps 0|--workers x|--rows 0
        --evaluation-rows 0""",
    "train-generator notices --model books-gpt2": """
        --experts 0|--rank 0|--beams 0|--new-tokens 0|--full-lr -1|--rows 0|--lr -1""",
    "generate broken source": "--beams 0|--new-tokens 0",
    "import-experts a.bin": "--labels 0|--alpha nan|--alpha inf|--head classifier",
    "classroom grade 01_routing empty": "--seconds 0|--cell-seconds 0|--memory 0|--due tomorrow",
}
NAMES = """train --adaptation lroa|train --share sideways|train --opponent full|train --preset nope
    train --task aspcts|train --task nowhere/task.csv|train --task notes.txt|train --task empty
    train --task loop|train --task task.csv --label lable|train --task task.csv --text txt
    train --task one-class.csv|train --task cut.parquet|train --task cut.csv.gz|train --task deep.jsonl
    train --task rte --folder nowhere|train --bukcet 1|train extra|trian|--nope|train --lr|evaluate nowhere
    evaluate loop|evaluate|predict nowhere text|predict|posterior nowhere|generate nowhere source
    export nowhere|export broken --format pefft|export|landscape --kind plain|landscape --metric los
    posterior moved --task nowhere/task.csv|posterior moved --outside nowhere/task.csv|posterior moved
    landscape moved --task nowhere/task.csv|landscape --stage end|landscape --kind|ablate nowhere.yaml|ablate
    report nowhere|report empty|report loop|report|presets nope|train-generator
    train-generator notices --model books-gpt2 --part train|push|push nowhere|classroom grade
    classroom grad|classroom|doctor --clas|generate|landscape --dtype int8|import-experts"""
FOLDERS = """ablate loop|ablate bad.yaml|ablate bomb.yaml|ablate twice.yaml|ablate text.yaml|ablate broken/adamix.json
    ablate list.yaml|evaluate broken|evaluate deep|evaluate old|evaluate far|predict broken text
    predict --strategy mergd broken text|evaluate --strategy mergd broken|export broken|evaluate moved
    push broken owner/name|push empty owner/name|push moved owner|generate broken source
    generate --strategy ensemble broken source|posterior broken|posterior deep|posterior moved --member broken
    landscape adamx|landscape broken|landscape moved adamix broken|import-experts empty|import-experts nowhere
    import-experts nowhere.bin|ablate baselines --method lroa|ablate few-shot --method full
    ablate few-shot --task sst|train-generator nowhere --model books-gpt2
    train-generator notices --model books-gpt2 --method lroa|report cut|classroom grade nope empty
    classroom release nope|classroom feedback nope"""
HEAVY = "import-experts notes.txt"  # a file has to be read as a model's


def split(text: str) -> list[str]:
    return [part.strip() for line in text.splitlines() for part in line.split("|") if part.strip()]


LIGHT = [f"{command} {part}" for command, parts in NUMBERS.items() for part in split(parts)]
LIGHT += [line for line in split(NAMES) if line != "classroom"] + split(FOLDERS)  # which prints its help
LINES = [*LIGHT, *split(HEAVY)]


def make(folder: Path) -> None:
    """The files that the lines name."""
    rows = "".join(
        f"the film number {n} was {'fine' if n % 2 else 'poor'},{'good' if n % 2 else 'bad'}\n" for n in range(40)
    )
    deep, nothing = "[" * 10_000, {"adaptation": {}, "base": {}, "share": [], "sites": [], "head": []}
    texts = {
        "task.csv": "text,label\n" + rows, "one-class.csv": "text,label\na,x\nb,x\n", "notes.txt": "no table",
        "deep.jsonl": '{"text": ' + deep, "cut.parquet": "PAR1", "cut.csv.gz": "\x1f",
        "grid.yaml": "base: {task: aspects, steps: 3}\nrows: [{}]\n", "bad.yaml": "base: {stps: 3}\nrows: [{}]\n",
        "text.yaml": "just words", "list.yaml": "[1, 2]", "twice.yaml": "rows: [{}, {}]\n",
        "bomb.yaml": "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 12))]),
        "broken/adamix.json": "{", "deep/adamix.json": deep, "old/adamix.json": json.dumps({"format": 0}),
        "far/adamix.json": json.dumps({"format": 1, "experts": 10**9, **nothing}),
        "cut/results.parquet": "PAR1",
        "moved/adamix.json": json.dumps({"format": 1, "experts": 1, **nothing, "notes": {"source": "./elsewhere.csv"}}),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "empty").mkdir()
    (folder / "loop").symlink_to("loop")


def said(line: str | list[str]) -> tuple[int, str]:
    """(exit code, what was printed on stderr) of a line, in this process and folder."""
    from adamix_lab.cli.main import app

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            app(shlex.split(line) if isinstance(line, str) else line, prog_name="adamix-lab")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return code, errors.getvalue()


def page() -> str:
    """The table, as Markdown."""
    import datetime

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make(Path(folder))
        told = {line: said(line)[1].strip().removeprefix("adamix-lab: ") for line in LINES}
        for place in (f"{ROOT}/", f"{Path.cwd()}/"):  # of the machine on which the page is made
            told = {line: text.replace(place, "") for line, text in told.items()}
        rows = [f"| `{line}` | {text} |" for line, text in told.items()]
    made = f"{len(LINES)} command lines with a mistake, and what is said to each ({datetime.date.today()})."
    head = f"# Refusals\n\n{made} `python tests/bad_command_lines.py` writes this page.\n"
    return (
        "\n".join([head, "| `adamix-lab ...` | said |", "|---|---|", *(row.replace("||", "|") for row in rows)]) + "\n"
    )


def without_torch() -> list[str]:
    """The light lines that ask for torch after all. To be called in a fresh process, whose folder holds the files."""

    class Refuse:
        def find_spec(self, name: str, *_: object) -> None:
            if name in ("torch", "transformers", "pandas"):
                raise RuntimeError(f"{name} is heavy")

    sys.meta_path.insert(0, Refuse())  # type: ignore[arg-type]
    return [line for line in LIGHT if "is heavy" in said(line)[1]]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ["HF_HUB_OFFLINE"] = "1"
    if "--without-torch" in sys.argv:
        print("\n".join(without_torch()))
    else:
        PAGE.write_text(page(), encoding="utf-8")
