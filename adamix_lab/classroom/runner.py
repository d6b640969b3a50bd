"""Runs one notebook under limits: `python runner.py IN.ipynb OUT.ipynb LIMITS_AS_JSON`, in a process of its own.

A script, not imported by the rest: it needs nbclient alone, so that what surrounds a submission stays small. Every code
cell of the result has run, or holds an error that says in words why not; what happened is told in
`metadata.adamix_run.remarks`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from traitlets.config import Config

START_SECONDS = 300  # for Python itself, on a busy machine
NO_MEMORY = ("MemoryError", "not enough memory", "can't allocate memory", "bad_alloc")


def limit_process(memory_mb: int, file_mb: int, cpu_seconds: int) -> None:
    """Limits that the kernel inherits, where the system knows them (not Windows)."""
    try:
        import resource
    except ImportError:
        return
    wanted = {"RLIMIT_FSIZE": file_mb << 20, "RLIMIT_CPU": cpu_seconds, "RLIMIT_CORE": 0}
    # Linux counts what a process writes to (DATA); elsewhere only the address space can be limited
    wanted["RLIMIT_DATA" if sys.platform == "linux" else "RLIMIT_AS"] = memory_mb << 20
    for name, value in wanted.items():
        hard = resource.getrlimit(getattr(resource, name))[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (OSError, ValueError):
            continue  # macOS refuses some: grading says what is not limited


def error(name: str, words: str) -> Any:
    """An error as a cell's output: no points for what stands there."""
    return nbformat.v4.new_output("error", ename=name, evalue=words, traceback=[f"{name}: {words}"])


def place(cell: Any, number: int) -> str:
    """What a learner calls a cell."""
    name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
    return f"cell {number + 1}" + (f" ({name})" if name and not name.startswith("cell-") else "")


class LimitedClient(NotebookClient):
    """nbclient with an end to time and output, and words for what went wrong."""

    limits: dict[str, int]

    def prepare(self, limits: dict[str, int]) -> LimitedClient:
        """Sets the limits before anything runs."""
        self.limits, self.stopped = limits, ""
        self.remarks: list[str] = []
        self.began, self.printed, self.stuck = 0.0, 0, 0
        self.timeout_func = lambda cell: max(1, min(limits["cell_seconds"], int(self.left())))
        self.interrupt_on_timeout, self.allow_errors = True, True
        self.skip_cells_with_tag = "\0"  # a tag must not keep a test from running
        self.error_on_timeout = {"ename": "TooLong", "evalue": "", "traceback": []}
        return self

    def left(self) -> float:
        """Seconds left for the whole notebook; they begin with its first cell, not with the start of Python."""
        self.began = self.began or time.monotonic()
        return self.limits["seconds"] - (time.monotonic() - self.began)

    async def async_execute_cell(self, cell: Any, cell_index: int, *rest: Any, **named: Any) -> Any:
        """One cell; after a stop, the reason in its place."""
        if cell.cell_type != "code":
            return cell
        if not self.stopped and self.left() <= 0:
            self.stop(f"The whole notebook took more than {self.limits['seconds']} s.")
        if self.stopped:
            cell.outputs = [error("NotRun", f"this cell was not run. {self.stopped}")]
            return cell
        self.printed, cell.outputs, cell.execution_count = 0, [], None
        try:
            await super().async_execute_cell(cell, cell_index, *rest, **named)
        except DeadKernelError:
            self.stop(
                f"Python ended while it ran {place(cell, cell_index)}: it was left (exit, os._exit), crashed, or was "
                f"ended by the system for more than {self.limits['memory_mb']} MB of memory."
            )
            cell.outputs.append(error("PythonEnded", self.stopped))
        self.tell(cell, cell_index)
        return cell

    def stop(self, words: str) -> None:
        """Nothing runs any more; why."""
        self.stopped = words
        self.remarks.append(words)

    def tell(self, cell: Any, number: int) -> None:
        """Remarks about what a cell did; stderr becomes ordinary output, for nbgrader gives no points beside it."""
        failed = [o for o in cell.outputs if o.output_type == "error"]
        if any(sign in f"{o.ename}: {o.evalue}" for o in failed for sign in NO_MEMORY):
            limit = self.limits["memory_mb"]
            self.remarks.append(f"{place(cell, number)} asked for more memory than the {limit} MB that are given.")
        if self.printed > self.limits["output_bytes"]:
            self.remarks.append(
                f"{place(cell, number)} printed more than {self.limits['output_bytes'] // 1000} kB: it was stopped "
                "there, and the rest is left out."
            )
            cell.outputs.append(error("TooMuchOutput", self.remarks[-1]))
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                output.name = "stdout"
                self.remarks.append(f"{place(cell, number)} wrote to stderr: that is shown below, and costs no points.")

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Output, up to its limit; one step beyond interrupts the cell."""
        if msg["msg_type"] in ("stream", "display_data", "execute_result", "update_display_data"):
            before = self.printed
            self.printed += len(json.dumps(msg["content"], default=str))
            if self.printed > self.limits["output_bytes"]:
                if before <= self.limits["output_bytes"] and self.km is not None:
                    self.interruption: Any = asyncio.ensure_future(self.km.interrupt_kernel())  # type: ignore[call-overload]
                return None
        return super().process_message(msg, cell, cell_index)

    def note_reply(self, cell: Any, cell_index: int, execute_reply: dict[str, Any]) -> None:
        """After each cell: an error that left no output (sys.exit, a time-out) becomes one."""
        reply = execute_reply["content"]
        if reply["status"] == "ok":
            return
        if reply.get("ename") == "TooLong":
            # a cell that even an interrupt does not end says nothing: the next one then waits for nothing, too
            self.stuck += not cell.outputs
            words = (
                f"{place(cell, cell_index)} did not end within {self.limits['cell_seconds']} s, or within what "
                f"was left of {self.limits['seconds']} s for all: is there a loop without an end?"
            )
            self.remarks.append(words)
            cell.outputs.append(error("TooLong", words))
            if self.stuck > 1:
                self.stop("Two cells could not be interrupted; the rest was not run.")
        elif not any(output.output_type == "error" for output in cell.outputs):
            cell.outputs.append(error(reply.get("ename", "Error"), reply.get("evalue", "this cell did not end well")))


def main(source: Path, target: Path, limits: dict[str, int]) -> None:
    """Runs the notebook and writes what came out."""
    limit_process(limits["memory_mb"], limits["file_mb"], 2 * limits["seconds"])
    notebook = nbformat.read(source, as_version=4)
    # Unix sockets where there are any: a process without network has no 127.0.0.1 either
    config = Config() if sys.platform == "win32" else Config({"KernelManager": {"transport": "ipc"}})
    client = LimitedClient(notebook, kernel_name="python3", config=config, startup_timeout=START_SECONDS)
    client.prepare(limits).on_cell_executed = client.note_reply
    start = time.monotonic()
    try:
        client.execute()
    except Exception as problem:  # whatever nbclient meets: the cells that have not run must not look right
        client.stop(f"Running stopped: {type(problem).__name__}: {problem}")
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.execution_count is None and cell.source.strip() and not cell.outputs:
            cell.outputs = [error("NotRun", f"this cell was not run. {client.stopped}")]
    told = {"remarks": client.remarks, "seconds": round(time.monotonic() - start, 2), "began": bool(client.began)}
    notebook.metadata["adamix_run"] = told
    temporary = target.with_suffix(".part")
    nbformat.write(notebook, temporary)
    temporary.replace(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
