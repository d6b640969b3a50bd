"""The loop and what surrounds it."""

from adamix_lab.core import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "recipe": "Recipe preset",
        "run": "History",
        "evaluation": "Evaluation evaluate predict",
        "hf_trainer": "AdaMixTrainer",
        "shipped": "load_twin",
        "report": "parameter_report save structure",
    },
)
