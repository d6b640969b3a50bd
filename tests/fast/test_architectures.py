"""The table of docs/architectures.md: what each way does on each architecture, compared with plain calls."""

import architectures
import pytest
import transformers

QUICK = ["BERT", "DistilBERT", "BERT, mean of all tokens", "GPT-2", "DeBERTa-v3", "Longformer", "nn.TransformerEncoder"]
WRITTEN = "write it anew with python tests/architectures.py, and read what has changed"

pytestmark = pytest.mark.skipif(transformers.__version__ < "5", reason="the table is of transformers 5")


def test_the_table_holds_for_some():
    committed = architectures.PAGE.read_text(encoding="utf-8").splitlines()
    for line in architectures.table(QUICK).splitlines():
        assert line in committed, WRITTEN


@pytest.mark.slow
def test_the_table_holds_for_all():
    assert len(architectures.KINDS) >= 24
    assert architectures.PAGE.read_text(encoding="utf-8").endswith(f"\n\n{architectures.table()}"), WRITTEN


def test_the_fast_ways_of_old_stay():
    """Not only as they are written: nothing that was fast may become slow unnoticed."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in architectures.PAGE.read_text().splitlines()]
    fast = {row[0]: row[1:].count("fast") for row in rows if len(row) > 1}
    every = dict.fromkeys(["BERT", "RoBERTa", "DistilBERT", "MiniLM"], 6)
    assert {name: fast[name] for name in [*every, "GPT-2", "Llama", "T5"]} == every | {"GPT-2": 3, "Llama": 3, "T5": 2}
