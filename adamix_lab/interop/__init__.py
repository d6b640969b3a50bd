"""Leaving the toolkit and coming in: files of peft, adapters, transformers, ONNX, and the authors."""

from adamix_lab.core import lazy_names

__all__, __getattr__ = lazy_names(
    __name__, {"hub": "from_pretrained push_to_hub", "peft": "import_peft", "authors": "import_authors"}
)
