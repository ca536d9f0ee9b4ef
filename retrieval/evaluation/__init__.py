"""How good is a model? Figures over captioned images, in both directions.

In: a set of captioned images, an encoder and a scorer. Out: an `evaluate.Evaluation`, the ranks of the right items of
every query, of which `record` computes measures with intervals; `metrics` defines them."""
