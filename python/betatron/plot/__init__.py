"""Pictures, as methods of what they show: ``beam.plot``, ``line.plot``, ``track.plot`` and
``twiss.plot``.

Every picture is returned as a Matplotlib figure; none is shown or saved.
"""

from betatron.plot.line import LinePlots, TrackPlots, TwissPlots
from betatron.plot.phase_space import BeamPlots

__all__ = ["BeamPlots", "LinePlots", "TrackPlots", "TwissPlots"]
