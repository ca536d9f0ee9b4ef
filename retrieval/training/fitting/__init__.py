"""What is fitted once the weights have learnt? In: a trained model and `Features`. Out: the fitted parts.

The stored embedding (`embedder`), partition estimate (`estimate`), int8 ranges (`ranges`), `match` (`calibrate`)."""
