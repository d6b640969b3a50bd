"""Two processes on the halves of a batch are one process on the whole: weights, log, resumed or not."""

import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import close
import pytest
import tiny_task
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

if __name__ != "__main__":
    from tiny_task import one_thread  # noqa: F401

from adamix_lab.core.files import read_tensors, write_tensors
from adamix_lab.training.run import read_log
from adamix_lab.training.train import train

# The rate is low because Adam divides by the gradient's own size: rounding in a gradient near 0 becomes a part of a
# whole step. The gradients themselves are compared, too.
SETTINGS = {"steps": 12, "lr": 1e-4, "log_every": 1, "dev_fraction": 0.2, "evaluate_every": 5, "checkpoint_every": 5}
# 76 training rows in batches of 7: every half has another size, and the last batch other halves again
BATCH = {"batch_size": 7}


def run(folder: Path, **settings):
    mixture = tiny_task.mixture()
    recipe = tiny_task.recipe(**(SETTINGS | BATCH | settings))
    steps: list[dict[str, torch.Tensor]] = []

    def keep(optimizer, args, kwargs):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        steps.append({str(n): p.grad.clone() for n, p in enumerate(parameters)})

    hook = register_optimizer_step_pre_hook(keep)
    try:
        history = train(mixture, tiny_task.task(), tiny_task.tokenizer(), recipe, folder, progress=False)
    finally:
        hook.remove()  # it would see every optimiser of the process
    if steps:
        write_tensors(folder / "first.safetensors", steps[0])
    return mixture, history


def process(rank: int, port: int, folder: Path, settings: dict) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    mixture, _ = run(folder, **settings)
    write_tensors(folder / f"end{rank}.safetensors", tiny_task.weights(mixture))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def context():
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    slow = ["transformers.models.bert.modeling_bert", "accelerate", "tqdm.auto", "safetensors.torch"]
    context.set_forkserver_preload(["tiny_task", "adamix_lab.training.train", *slow])
    return context


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def two(context, folder: Path, **settings) -> dict[str, torch.Tensor]:
    port = free_port()
    processes = [context.Process(target=process, args=(rank, port, folder, settings)) for rank in (0, 1)]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
    assert [p.exitcode for p in processes] == [0, 0]
    first, second = (read_tensors(folder / f"end{rank}.safetensors") for rank in (0, 1))
    assert tiny_task.apart(first, second) == 0
    return first


@pytest.mark.parametrize(
    "settings", [{}, {"accumulate": 2, "per": "example"}, {"off_route": "freeze", "cache_prefix": True}]
)
def test_two_processes_equal_one(context, tmp_path, settings):
    alone, history = run(tmp_path / "one", **settings)
    found = two(context, tmp_path, **settings)
    assert tiny_task.apart(found, tiny_task.weights(alone)) <= close.REORDERED.share
    gradients = [read_tensors(folder / "first.safetensors") for folder in (tmp_path / "one", tmp_path)]
    close.assert_all_close(gradients[1], gradients[0], close.REORDERED)
    rows = read_log(tmp_path / "log.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in history.rows]
    for ours, theirs in zip(history.rows, rows, strict=True):
        assert ours.get("route") == theirs.get("route")  # the same on all ranks as on one
        close.assert_close(theirs.get("loss", 0), ours.get("loss", 0), close.REORDERED)


def test_two_processes_resume(context, tmp_path):
    whole = two(context, tmp_path)
    (tmp_path / "checkpoint-00000012.safetensors").unlink()
    assert tiny_task.apart(whole, two(context, tmp_path)) == 0


def test_one_process_does_not_go_on_from_two(context, tmp_path):
    two(context, tmp_path)
    with pytest.raises(ValueError, match="processes was 2, is 1"):
        run(tmp_path)


def own_loop(rank: int, port: int, folder: Path) -> None:
    """Four steps of a loop of one's own over DistributedDataParallel, on rows of its own: routes and weights."""
    from adamix_lab.core.mixture import MixtureLayer
    from adamix_lab.tasks.batches import collate, encode

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mixture, routes = tiny_task.mixture().train(), []
    layer = next(module for module in mixture.modules() if isinstance(module, MixtureLayer))
    layer.register_forward_pre_hook(lambda module, args: routes.append(module.selection.clone()))
    examples = encode(tiny_task.task().train, tiny_task.task(), tiny_task.tokenizer())
    model = torch.nn.parallel.DistributedDataParallel(mixture)
    optimizer = torch.optim.AdamW([p for p in mixture.parameters() if p.requires_grad], 1e-3)
    for step in range(4):
        model(**collate(examples[16 * step + 8 * rank :][:8])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    drawn = {f"route{n}": route for n, route in enumerate(routes)}
    write_tensors(folder / f"end{rank}.safetensors", {**tiny_task.weights(mixture), **drawn, "draws": mixture.draws})
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_draw_the_same_routes_in_a_loop_of_ones_own(context, tmp_path):
    port = free_port()
    processes = [context.Process(target=own_loop, args=(rank, port, tmp_path)) for rank in (0, 1)]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
    assert [p.exitcode for p in processes] == [0, 0]
    first, second = (read_tensors(tmp_path / f"end{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    drawn = [first[f"route{n}"] for n in range(4)]
    assert int(first["draws"]) == 4 and not all(torch.equal(drawn[0], route) for route in drawn)


@pytest.mark.slow
def test_torchrun(tmp_path):
    here = Path(__file__).resolve()
    paths = os.pathsep.join([str(here.parents[1]), str(here.parents[2])])
    environment = {**os.environ, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    subprocess.run([sys.executable, *launch, str(here), str(tmp_path)], check=True, env=environment)
    alone, _ = run(tmp_path / "one")
    assert (
        tiny_task.apart(read_tensors(tmp_path / "end0.safetensors"), tiny_task.weights(alone)) <= close.REORDERED.share
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    trained, _ = run(target)
    write_tensors(target / f"end{os.environ['RANK']}.safetensors", tiny_task.weights(trained))
    torch.distributed.destroy_process_group()
