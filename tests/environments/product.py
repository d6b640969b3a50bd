"""The product as a newcomer gets it: `python tests/environments/product.py wheel|editable [PYTHON]` prints a row.

An environment of that Python (default: this one), made anew under runs/environments; into it the wheel with its extra
`learn`, or this checkout, editable; then each of TRIES in an empty folder, with the network off (unshare, on Linux) or
behind a proxy that refuses. Exit code 77 where packages cannot be fetched, 1 where a try fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "runs" / "environments"
NO_REGISTRY = 77
NOWHERE = "http://127.0.0.1:9"
LAB = """
import json, os, pathlib, subprocess, sys, time, urllib.request
settings = {"allow_root": True, "open_browser": False, "port": 18999, "port_retries": 0}
pathlib.Path("config").mkdir(exist_ok=True)
pathlib.Path("config/jupyter_server_config.json").write_text(json.dumps(
    {"ServerApp": settings, "IdentityProvider": {"token": "t"}}))
lab = subprocess.Popen([sys.executable, "-m", "adamix_lab", "lab", "lessons"],
                       env={**os.environ, "JUPYTER_CONFIG_DIR": "config"}, start_new_session=True)
try:
    for _ in range(600):
        time.sleep(0.5)
        assert lab.poll() is None, "the lab has ended"
        try:
            address = "http://127.0.0.1:18999/api/contents/00_tour.ipynb?content=0&token=t"
            found = json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address))
            break
        except OSError:
            pass
    assert found["type"] == "notebook"
finally:
    os.killpg(lab.pid, 15)  # the server, too, which would hold the output open
    lab.wait()
"""
LESSON = """
import nbclient, nbformat
lesson, place = nbformat.read("lessons/00_tour.ipynb", as_version=4), {"metadata": {"path": "lessons"}}
nbclient.NotebookClient(lesson, timeout=1200, kernel_name="python3", resources=place).execute()
"""
LAB_COMMAND = ("-m", "adamix_lab")
# In this order: later ones use what earlier ones left in the folder.
LEARNER = {
    "tour": [*LAB_COMMAND, "tour"],
    "lab": ["-c", LAB],
    "lesson 00": ["-c", LESSON],
    "own CSV": [*LAB_COMMAND, *"train --task mine.csv --steps 20 --top-blocks 2 --pooling cls --out mine".split()],
    "export": [*LAB_COMMAND, *"export mine/seed0 --format adapters --out exported".split()],
}
TEACHER = {  # whose environment has the extra `instructor`, too
    "classroom": [*LAB_COMMAND, *"classroom release 00_tour --exercises".split(), ROOT / "notebooks/exercises"],
}
# Of the network only loopback is there, over which kernels talk.
ALONE = "import fcntl, os, socket, struct, sys; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 1)); "
ALONE += "os.execv(sys.argv[1], sys.argv[1:])"
UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]


def make(way: str, python: str) -> tuple[Path, dict, str]:
    """(the environment's interpreter, what was measured, what to install); exits with 77 without a registry."""
    folder = HERE / f"{way}-{Path(python).name}"
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    inside, row = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"), {}
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    start = time.perf_counter()
    pip(inside, "install", torch)  # first: the one package whose index is a choice
    target = f"{ROOT}"
    if way == "wheel":
        pip(inside, "wheel", "--no-deps", "-w", folder / "dist", ROOT)
        (wheel,) = (folder / "dist").glob("*.whl")
        target, row["wheel MB"] = str(wheel), round(wheel.stat().st_size / 1e6, 1)
    pip(inside, "install", *(["-e"] if way == "editable" else []), f"{target}[learn]")
    row["seconds to install"] = round(time.perf_counter() - start)
    return inside, row, target


def pip(python: Path, *words: str | Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    command = [python, "-m", "pip", words[0], "-q", "-c", "constraints.txt", *words[1:]]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        print((done.stderr.strip() or "pip failed")[-2000:])
        raise SystemExit(NO_REGISTRY)


def tried(python: Path, words: list, folder: Path) -> int | str:
    """Seconds that a try took, or the end of what it said where it failed."""
    dropped = ("PYTHONPATH", "ADAMIX_LAB_DATA", "ADAMIX_LAB_MINILM", "HF_HUB_OFFLINE")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment |= {name: NOWHERE for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    alone = shutil.which("unshare") and not subprocess.run([*UNSHARE, "true"], capture_output=True).returncode
    command = [*UNSHARE, python, "-c", ALONE, python, *words] if alone else [python, *words]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return round(time.perf_counter() - start) if done.returncode == 0 else (done.stdout + done.stderr)[-1500:]


def main(way: str, python: str = sys.executable) -> None:
    """Prints a row as JSON: sizes, packages, seconds of each try."""
    inside, row, target = make(way, python)
    frozen = subprocess.run([inside, "-m", "pip", "freeze", "--exclude", "adamix-lab"], capture_output=True, text=True)
    row |= {"packages": len(frozen.stdout.splitlines()), "failed": {}}
    folder = inside.parents[1] / "an empty folder"
    folder.mkdir()
    lines = [f"the film number {n} was {'lovely' if n % 2 else 'dull'},{'good' if n % 2 else 'bad'}" for n in range(40)]
    (folder / "mine.csv").write_text("\n".join(["text,label", *lines]))
    for tries in (LEARNER, TEACHER):
        if tries is TEACHER:
            pip(inside, "install", *(["-e"] if way == "editable" else []), f"{target}[instructor]")
        for name, words in tries.items():
            took = tried(inside, words, folder)
            (row if isinstance(took, int) else row["failed"])[name] = took
    print(json.dumps({"way": way, "python": python, **row}))
    raise SystemExit(1 if row["failed"] else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
