"""A figure that a notebook shows."""

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A figure that notebooks show as it is; those of matplotlib they show only once pyplot was imported."""

    def _repr_png_(self) -> bytes:
        """What IPython's display asks for."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
