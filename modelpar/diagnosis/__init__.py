"""How good a generative model is, and whether its chains mix: one short module for each family of measures."""
