"""How things look: hits, progress, figures and plots, as lines on a terminal or as HTML and SVG.

In come the values that `retrieval` returns; out go text and pictures."""
