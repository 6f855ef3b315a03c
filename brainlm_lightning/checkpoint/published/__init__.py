"""Import of the published BrainLM weights: which models there are, their files, their tensors, their names here."""
