"""How are the heads, the scorer or the towers of a model trained? In: captioned images. Out: a model directory.

Direction: data -> model -> inference -> learning, fitting -> run, finetune, card, export. Needs torch. Light code only
needs `retrieval.progress`, the events of a run."""
