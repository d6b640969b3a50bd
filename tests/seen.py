"""What can be seen of a picture, for tests."""


def all_inside(figure):
    """Whether all that is drawn, legends and labels with it, lies on the figure; half a pixel is forgiven."""
    figure.canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > -0.5 / figure.dpi
