"""Every figure of the course: one style, one colour map for amounts, one colour per thing.

Each function draws one figure; in a notebook it appears below the cell, with a text for who cannot see it.
"""

from utils.plots.clips import animate, cut, frames, overview, spoken, subtitles, timeline
from utils.plots.curves import bars, claims, clouds, lines, reliability, seeds
from utils.plots.diagrams import diagram, slices, token_story
from utils.plots.journey import journey
from utils.plots.maps import confusion, confusions, heat, matrix, reach, spotlight, tokens
from utils.plots.style import CMAP, COLOURS
from utils.plots.touch import ask_a_patch, model_in_page, versus
