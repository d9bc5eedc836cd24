"""Contributions to new parameters: the flat vector, the lane tree, clipping, SGD, and the exchange where they meet."""
