"""Chores of a checkout: what is started."""

from pathlib import Path

from adamix_lab.cli import workshop

ROOT = Path(__file__).resolve().parents[2]


def test_the_lab_is_started_on_the_notebooks_at_the_tour(monkeypatch):
    started = []
    monkeypatch.setattr(workshop, "_run", lambda *command: started.append(command) or 0)
    assert workshop.lab() == 0
    (command,) = started
    assert command[:3] == ("-m", "jupyter", "lab") and f"--ServerApp.root_dir={ROOT / 'notebooks'}" in command
    (address,) = [part for part in command if "default_url" in part]
    assert (ROOT / "notebooks" / address.rsplit("/", 1)[1]).is_file() and "00_tour" in address
