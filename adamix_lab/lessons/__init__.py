"""What the lessons compute, measure and check: plain functions, usable without a notebook.

A notebook imports the module of its lesson alone, as `lesson`; what notebooks share is found through it, too.
"""

from adamix_lab.core import lazy_names

__all__, shared = lazy_names(
    __name__,
    {
        "checks.exercises": "check_agree check_align check_barrier check_consistency check_count check_coverage "
        "check_detectable check_draw_route check_gated_lora check_marginal check_number_of_routes "
        "check_paired_interval check_peft_weight check_prefix_labels",
        "checks": "attempt",
        "drawing": "draw_block effects_table forest outcome",
        "program": "check_program equal_to_library insert mine progress",
        "widgets": "Prediction brier",
        "world": "HIDES world_explorer",
    },
)
__getattr__ = shared  # and each lesson's
