"""What is trained? In: the towers' outputs for images and texts. Out: embeddings (`heads`) and fusion (`reader`).

`reader` is the cross-attention scorer. `integer_reader` is the same network in int8, as queries run it."""
