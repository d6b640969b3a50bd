"""Writing text: tasks, masked prefixes, beam search, scores."""

from adamix_lab.core import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "tasks": "GenerationTask load_generation_task",
        "training": "train_generator",
        "decoding": "Decoding generate_texts",
        "scores": "cider nist rouge_l",
    },
)
