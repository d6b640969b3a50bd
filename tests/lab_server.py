"""A real JupyterLab on this machine, and a headless Chromium that opens notebooks in it and acts as a learner.

Used by the browser tests and by `tests/benchmarks/latency.py`. Nothing here sleeps: commands are promises of
JupyterLab, and what a learner would see is waited for.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

ROOT = Path(__file__).resolve().parent.parent
HERE = "127.0.0.1"
STARTING = 600  # seconds until the server answers, and then until the page stands; a free machine needs three
ANSWER = 60  # seconds until a widget has answered; a free machine needs a tenth of one

# No news, no autosave, and every cell in the page: a cell that is scrolled out of sight must still be found.
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}


def chromium_path() -> str | None:
    """Where Chromium is installed, or None."""
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


def missing() -> str | None:
    """Why no browser can be driven here, in words; None where it can."""
    if not chromium_path():
        return "no Chromium here (Debian: apt-get install chromium)"
    for module in ("playwright", "jupyterlab", "ipywidgets"):
        if find_spec(module) is None:
            return f"{module} is not installed (extras dev and notebooks)"
    return None


# -- the server ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, the token that opens it, the folder that it shows."""

    url: str
    token: str
    folder: Path


@contextmanager
def serve(work: Path, arguments: tuple[str, ...] = ()) -> Iterator[Lab]:
    """JupyterLab on a copy of the notebooks in `work`, with configuration of its own. Ends with the block.

    arguments: further ones of the command line.
    """
    folder = work / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns("src", ".ipynb_checkpoints"))
    lab = Lab(f"http://{HERE}:{_free_port()}", secrets.token_hex(16), folder)
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", f"--ServerApp.ip={HERE}",
        f"--ServerApp.port={urlparse(lab.url).port}", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={lab.token}", f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True", *arguments,
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    with (work / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=work, env=_environment(work), stdout=log, stderr=subprocess.STDOUT)
        try:
            _await_answer(lab, process, work / "server.log")
            yield lab
        finally:
            process.terminate()  # the server ends its kernels
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])


def _environment(work: Path) -> dict[str, str]:
    folders = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython",
    }  # fmt: skip
    own = {name: str(work / folder) for name, folder in folders.items()}
    overrides = work / "config" / "labconfig" / "default_setting_overrides.json"
    overrides.parent.mkdir(parents=True, exist_ok=True)
    overrides.write_text(json.dumps(SETTINGS), encoding="utf-8")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        **own,
        "JUPYTER_PREFER_ENV_PATH": "1",
        "ADAMIX_LAB_FAST": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": paths,
    }


def _await_answer(lab: Lab, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{lab.url}/api?token={lab.token}", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)  # the one wait there is: nothing tells when a port begins to answer
    raise RuntimeError(f"JupyterLab did not answer within {STARTING} s: {log.read_text('utf-8', 'replace')[-2000:]}")


# -- the browser --------------------------------------------------------------------------------------------


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright without a browser of Playwright's own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]  # root has no sandbox, containers little shared memory
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Troubles:
    """What a page must not have: errors, failed requests, and requests to anywhere but this machine."""

    errors: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


def watched(page: Any) -> Troubles:
    """Notes the page's troubles from now on."""
    seen = Troubles()

    def asked(url: str) -> None:
        if urlparse(url).scheme not in ("data", "blob", "file", "about") and urlparse(url).hostname != HERE:
            seen.outside.append(url)

    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda message: seen.console.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: asked(request.url))
    page.on("websocket", lambda socket: asked(socket.url))
    page.on("requestfailed", lambda request: seen.failed.append(f"{request.url}: {request.failure}"))
    return seen


@contextmanager
def page_of(browser: Any, **options: Any) -> Iterator[tuple[Any, Troubles]]:
    """A page in a context of its own, and its troubles."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, reduced_motion="reduce", **options)
    page = context.new_page()
    page.set_default_timeout(120_000)  # a free machine needs less than one hundredth
    try:
        yield page, watched(page)
    finally:
        context.close()


# -- a notebook in it ---------------------------------------------------------------------------------------

READY = """async () => {
  const app = window.jupyterapp;
  await app.restored;
  const { context, sessionContext } = app.shell.currentWidget;
  await context.ready; await sessionContext.ready; await sessionContext.session.kernel.info;
}"""
RUN_ALL = """async () => {
  const app = window.jupyterapp;
  await app.commands.execute('notebook:run-all-cells');
  return app.shell.currentWidget.content.widgets.filter(cell => cell.model.type === 'code').map(cell => ({
    source: cell.model.sharedModel.getSource(),
    count: cell.model.executionCount,
    tags: cell.model.getMetadata('tags') ?? [],
    errors: cell.model.outputs.toJSON().filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`),
  }));
}"""
# JupyterLab sends what widgets say over subshells of the kernel, beside the cells, and the kernel hands each to the
# shell that spoke last for its widget. So each widget is sent a change of nothing: its "idle" comes after all that was
# said before on its way. Twice, because a widget holds back a change while an earlier one is on its way. The next frame
# shows it. ipykernel 7.4 says no "idle" of what comes while a shell awaits something: then the change is sent again.
SETTLED = """async (limit) => {
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
  const comms = [...kernel._comms.values()].filter(comm => comm.targetName === 'jupyter.widget');
  const nothing = { method: 'update', state: {}, buffer_paths: [] };
  const answered = async comm => {
    for (let tries = 0; tries < 5; tries++) {
      const late = new Promise(resolve => setTimeout(resolve, limit, false));
      if (await Promise.race([comm.send(nothing).done.then(() => true), late])) return;
    }
    throw new Error('the kernel does not answer');
  };
  for (const _ of [1, 2]) await Promise.all(comms.map(answered));
  await new Promise(requestAnimationFrame);
}"""
RESTART = """async () => {
  const { sessionContext } = window.jupyterapp.shell.currentWidget;
  await sessionContext.session.kernel.restart(); await sessionContext.session.kernel.info;
}"""
ASK = """async (expression) => {
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
  const asked = { code: '', user_expressions: { asked: expression }, store_history: false };
  return (await kernel.requestExecute(asked).done).content.user_expressions.asked.data['text/plain'];
}"""
SHUT = "async () => { await window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }"


def open_notebook(page: Any, lab: Lab, name: str) -> None:
    """Opens a notebook alone on the page, in a workspace of its own, and waits for its kernel."""
    address = f"{lab.url}/doc/workspaces/{secrets.token_hex(6)}/tree/{name}?reset&token={lab.token}"
    page.goto(address, timeout=1000 * STARTING)
    page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.context", timeout=1000 * STARTING)
    page.evaluate(READY)


def run_all(page: Any) -> list[dict[str, Any]]:
    """Runs all cells; each code cell's source, execution count, tags and errors."""
    cells: list[dict[str, Any]] = page.evaluate(RUN_ALL)  # no limit of its own: the test's is enough
    return cells


def settle(page: Any) -> None:
    """Waits until the kernel has answered all that controls have sent."""
    page.evaluate(SETTLED, 1000 * ANSWER)


def restart_kernel(page: Any) -> None:
    """Starts the kernel anew, as from the menu."""
    page.evaluate(RESTART)


def ask_kernel(page: Any, expression: str) -> str:
    """The repr of an expression's value in the notebook's kernel."""
    return str(page.evaluate(ASK, expression))


def shut_kernel(page: Any) -> None:
    """Ends the notebook's kernel."""
    page.evaluate(SHUT)
