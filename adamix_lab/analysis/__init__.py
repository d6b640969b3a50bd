"""Looking at trained mixtures: routes as random variables, uncertainty, theory, landscapes."""

from adamix_lab.core import lazy_names

__all__, __getattr__ = lazy_names(
    __name__,
    {
        "points": "line plane random_plane simplex",
        "landscape": "Landscape evaluate_points read_landscape",
        "posterior": "convergence every_route marginal uncertainty",
        "calibration": "brier ece fit_temperature reliability",
        "statistics": "Estimate t_interval verdict_of wilson",
        "plots": "new_figure save_figure",
    },
)
