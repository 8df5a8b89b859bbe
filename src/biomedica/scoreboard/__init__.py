"""Results of evaluation runs as one HTML page: who is better at what, by how much, and why to doubt it."""

from biomedica.scoreboard.mistakes import PictureSource
from biomedica.scoreboard.page import write_scores_page

__all__ = ["PictureSource", "write_scores_page"]
