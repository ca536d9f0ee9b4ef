"""How do the weights learn? In: `Features` and settings. Out: the best weights on dev, and the history of the epochs.

`loop` runs any `Stage`: the heads (ITC), the scorer (LM and ITM), or the towers of an open_clip model (ITC)."""
