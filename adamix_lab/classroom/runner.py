"""Runs one notebook under limits: takes JSON on stdin and leaves JSON on stdout, in a process of its own.

In: `notebook` as text, `files` beside it (name: text), `limits`. Out: `notebook`, `remarks` in words, `seconds`,
`began`. Every code cell of the result has run, or holds an error that says in words why not. The kernel has neither
of the two pipes, and cannot look into this process (Linux).

A script, not imported by the rest: it needs nbclient alone, so that what surrounds a submission stays small.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import builtins
import ctypes
import json
import marshal
import os
import random
import secrets
import symtable
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from traitlets.config import Config

START_SECONDS = 300  # for Python itself, on a busy machine
NO_MEMORY = ("MemoryError", "not enough memory", "can't allocate memory", "bad_alloc")
GUARD = "__import__('adamix_lab.classroom.guard', fromlist=['begin']).begin"
CANARY = """
try:
    __strict__(type("Always", (), dict(__eq__=lambda a, b: True))())
except AssertionError:
    assert [] == [1], {token!r}
"""
REPORT = "application/vnd.adamix-lab.report+json"


def limit_process(memory_mb: int, file_mb: int, cpu_seconds: int) -> None:
    """Limits that the kernel inherits, where the system knows them (not Windows)."""
    if sys.platform == "win32":
        return
    import resource

    wanted = {"RLIMIT_FSIZE": file_mb << 20, "RLIMIT_CPU": cpu_seconds, "RLIMIT_CORE": 0}
    # Linux counts what a process writes to (DATA); elsewhere only the address space can be limited
    wanted["RLIMIT_DATA" if sys.platform == "linux" else "RLIMIT_AS"] = memory_mb << 20
    for name, value in wanted.items():
        with suppress(OSError, ValueError):  # there is a lower one, or macOS refuses: grading says what is not limited
            resource.setrlimit(getattr(resource, name), (value, value))


def error(name: str, words: str) -> Any:
    """An error as a cell's output: no points for what stands there."""
    return nbformat.v4.new_output("error", ename=name, evalue=words, traceback=[f"{name}: {words}"])


def marks(cell: Any) -> Any:
    """What nbgrader knows of a cell."""
    return cell.metadata.get("nbgrader", {})


def place(cell: Any, number: int) -> str:
    """What a learner calls a cell."""
    name = marks(cell).get("grade_id", "")
    return f"cell {number + 1}" + (f" ({name})" if name and not name.startswith("cell-") else "")


# -- the course's own cells: compiled here, where no submission's hooks are, and run by `guard` in the kernel ----------


class Strict(ast.NodeTransformer):
    """What comes from a submission's names goes through `guard.strict`: nothing then is equal to everything."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """An answer: a value, or a function that is called or passed on."""
        return self.wrap(node) if node.id in self.names and isinstance(node.ctx, ast.Load) else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """What an answer returns."""
        theirs = isinstance(node.func, ast.Name) and node.func.id in self.names
        self.generic_visit(node)
        return self.wrap(node) if theirs else node

    def wrap(self, node: ast.expr) -> ast.AST:
        """The call of strict."""
        return ast.copy_location(ast.Call(ast.Name("__strict__", ast.Load()), [node], []), node)


def course_cell(source: str, name: str, bound: set[str], token: str) -> str:
    """What `guard.run` takes to run a cell of the course; it reports the token where it came to its end.

    bound: names that the course's cells have bound so far; the cell's own are added. All others are a submission's.
    """
    tree, top = ast.parse(source), symtable.symtable(source, name, "exec")
    tables = [top]
    for table in tables:
        tables += table.get_children()
    binds = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    uses = {s.get_name() for table in tables for s in table.get_symbols() if table is top or s.is_global()} - binds
    bound |= binds
    tree = Strict(uses - bound - set(dir(builtins))).visit(tree)
    tree.body += ast.parse(f"__token__ = {token!r}").body
    code = compile(ast.fix_missing_locations(tree), name, "exec", dont_inherit=True, optimize=0)
    sent = marshal.dumps((code, source, name, tuple(uses), tuple(binds)))
    return base64.b64encode(sent).decode()


def imports(notebook: Any) -> list[str]:
    """The modules that the course's cells import."""
    nodes = [n for cell in notebook.cells if is_course(cell) for n in ast.walk(ast.parse(cell.source))]
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return sorted({*plain, *(str(node.module) for node in nodes if isinstance(node, ast.ImportFrom))})


def is_course(cell: Any) -> bool:
    """Whether a cell's text is the course's: nbgrader has put it back."""
    return bool(cell.cell_type == "code" and marks(cell).get("locked") and marks(cell).get("grade_id"))


class LimitedClient(NotebookClient):
    """nbclient with an end to time and output, and words for what went wrong."""

    def __init__(self, notebook: Any, limits: dict[str, int], files: dict[str, str], **settings: Any) -> None:
        super().__init__(notebook, **settings)
        self.limits, self.files, self.stopped = limits, files, ""
        self.bound, self.guard = set[str](), f"_{secrets.token_hex(8)}"
        self.remarks: list[str] = []
        self.began, self.printed, self.stuck = 0.0, 0, 0
        self.report: dict[str, Any] = {}
        self.replaced: dict[str, None] = {}
        self.timeout_func = lambda cell: max(1, min(limits["cell_seconds"], int(self.left())))
        self.interrupt_on_timeout, self.allow_errors = True, True
        self.skip_cells_with_tag = "\0"  # a tag must not keep a test from running
        self.error_on_timeout = {"ename": "TooLong", "evalue": "", "traceback": []}
        self.on_notebook_start, self.on_cell_executed = self.begin, self.note_reply

    async def begin(self, notebook: Any) -> None:
        """Before the first cell: modules are loaded, on nobody's time; then the submission's own files are there."""
        limit, self.timeout_func = self.timeout_func, lambda cell: START_SECONDS
        outputs = await self.aside(f"{GUARD}({imports(notebook)!r}, {self.guard!r})", 0)
        if outputs:
            raise RuntimeError(" ".join(o.get("evalue") or o.get("text", "") for o in outputs))
        for name, text in self.files.items():
            Path(name).write_text(text, encoding="utf-8")
        self.timeout_func, self.began = limit, time.monotonic()

    def left(self) -> float:
        """Seconds left for the whole notebook; they begin with its first cell, not with the start of Python."""
        return self.limits["seconds"] - (time.monotonic() - self.began)

    async def aside(self, source: str, cell_index: int) -> list[Any]:
        """Runs a line that is no cell of the notebook; its outputs."""
        cell, there = nbformat.v4.new_code_cell(source), self.nb.cells[cell_index]
        try:
            await super().async_execute_cell(cell, cell_index, store_history=False)
        finally:
            self.nb.cells[cell_index] = there
        return list(cell.outputs)

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
            if is_course(cell):
                await self.execute_course_cell(cell, cell_index)
            else:
                await super().async_execute_cell(cell, cell_index, *rest, **named)
        except DeadKernelError:
            self.stop(
                f"Python ended while it ran {place(cell, cell_index)}: it was left (exit, os._exit), crashed, or was "
                f"ended by the system for more than {self.limits['memory_mb']} MB of memory."
            )
            cell.outputs.append(error("PythonEnded", self.stopped))
        self.tell(cell, cell_index)
        return cell

    async def execute_course_cell(self, cell: Any, number: int) -> None:
        """A cell of the course; a test counts if it came to its end, and if an assertion that must fail then fails."""
        source, token, graded = cell.source, secrets.token_hex(8), marks(cell).get("grade")
        name = f"<{marks(cell)['grade_id']}>"
        if graded and random.random() < 0.5:  # so that nobody can count which call is which
            await self.canary(cell, number)
        self.report = {}
        cell.source = f"get_ipython().{self.guard}({course_cell(source, name, self.bound, token)!r})"
        try:
            await super().async_execute_cell(cell, number)
        finally:
            cell.source = source
        cell.outputs = [o for o in cell.outputs if o.output_type != "execute_result"]
        for output in cell.outputs:
            if output.output_type == "error":
                output.traceback = [part for part in output.traceback if self.guard not in part]
        if any(output.output_type == "error" for output in cell.outputs):
            return
        if self.report.get("token") != token or self.report.get("during"):
            self.off(cell, number, "something kept it from running, or was replaced while it ran")
        elif graded:
            await self.canary(cell, number)

    async def canary(self, cell: Any, number: int) -> None:
        """No points where a value that must be refused is not, or an assertion that must fail does not."""
        token, name = secrets.token_hex(8), f"<{marks(cell)['grade_id']}>"
        text = course_cell(CANARY.format(token=token), name, {"__strict__"}, token)
        outputs = await self.aside(f"get_ipython().{self.guard}({text!r})", number)
        if not any(o.output_type == "error" and (o.ename, o.evalue) == ("AssertionError", token) for o in outputs):
            self.off(cell, number, "an assertion that must fail did not")

    def off(self, cell: Any, number: int, why: str) -> None:
        """A test that was switched off gives no points."""
        self.fault(cell, "SwitchedOff", f"The test in {place(cell, number)} counts for nothing: {why}.")

    def fault(self, cell: Any, name: str, words: str) -> None:
        """An error in the cell's outputs and a remark, in the same words."""
        cell.outputs.append(error(name, words))
        self.remarks += [words] if words not in self.remarks else []

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
            kb = self.limits["output_bytes"] // 1000
            words = f"{place(cell, number)} printed more than {kb} kB: it was stopped there, and the rest is left out."
            self.fault(cell, "TooMuchOutput", words)
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
        report = msg["content"].get("data", {}).get(REPORT)
        if not isinstance(report, dict):
            return super().process_message(msg, cell, cell_index)
        self.report = report  # a submission could have sent it: the token tells
        self.replaced |= dict.fromkeys(map(str, report.get("replaced", ())))
        return None

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
            self.fault(cell, "TooLong", words)
            if self.stuck > 1:
                self.stop("Two cells could not be interrupted; the rest was not run.")
        elif not any(output.output_type == "error" for output in cell.outputs):
            cell.outputs.append(error(reply.get("ename", "Error"), reply.get("evalue", "this cell did not end well")))


def run(handed: dict[str, Any]) -> dict[str, Any]:
    """Runs the notebook; what came out."""
    limits = handed["limits"]
    limit_process(limits["memory_mb"], limits["file_mb"], 2 * limits["seconds"])
    notebook = nbformat.reads(handed["notebook"], as_version=4)
    # Unix sockets where there are any: a process without network has no 127.0.0.1 either
    config = Config() if sys.platform == "win32" else Config({"KernelManager": {"transport": "ipc"}})
    own = {"kernel_name": "python3", "config": config, "startup_timeout": START_SECONDS}
    client = LimitedClient(notebook, limits, handed["files"], **own)
    start = time.monotonic()
    try:
        client.execute()
    except Exception as problem:  # whatever nbclient meets: the cells that have not run must not look right
        client.stop(f"Running stopped: {type(problem).__name__}: {problem}")
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.execution_count is None and cell.source.strip() and not cell.outputs:
            cell.outputs = [error("NotRun", f"this cell was not run. {client.stopped}")]
    if client.replaced:
        client.remarks.append(
            f"{', '.join(client.replaced)[:500]} had another meaning: tests were run with the original."
        )
    seconds = round(time.monotonic() - start, 2)
    told = {"remarks": client.remarks, "seconds": seconds, "began": bool(client.began)}
    return {"notebook": nbformat.writes(notebook), **told}


def main() -> None:
    """Keeps the pipes to itself, then runs."""
    handed = json.load(sys.stdin)
    answer, nowhere = os.dup(1), os.open(os.devnull, os.O_RDWR)  # neither is inherited
    for stream in range(3):
        os.dup2(nowhere, stream)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: /proc shows nobody this process's pipes and memory
    os.chdir(os.environ["HOME"])
    Path("work").mkdir(exist_ok=True)
    os.chdir("work")
    with os.fdopen(answer, "w", encoding="utf-8") as pipe:
        print(flush=True, file=pipe)  # begun: from here on an end without an answer is the submission's
        json.dump(run(handed), pipe)


if __name__ == "__main__":
    main()
