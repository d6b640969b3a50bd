"""Looking at trained mixtures: routes as random variables, uncertainty, theory, landscapes."""

from __future__ import annotations

from adamix_lab.core import lazy_names

_NAMES = {
    "points": "line plane random_plane simplex square",
    "landscape": "Landscape evaluate_points read_landscape",
    "posterior": "convergence every_route marginal uncertainty",
    "calibration": "brier by_heart describe_mistakes disagreements ece fit_temperature reliability",
    "theory": "barycentre",
    "gate": "attach_gates collect_gates detach_gates",
    "statistics": "Estimate format_interval holm paired_bootstrap paired_interval t_interval wilson",
    "plots": "new_figure save_figure",
}
__all__ = [name for names in _NAMES.values() for name in names.split()]
__getattr__ = lazy_names(__name__, _NAMES)
