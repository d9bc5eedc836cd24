"""Contributions to new parameters: the flat vector, the lane tree, optimizers, and the exchange where they meet."""
