"""Whether a model may ship: the rules of gates.yaml, the statistics that compare two models, the verdict. Pure but for `rules.load`."""
