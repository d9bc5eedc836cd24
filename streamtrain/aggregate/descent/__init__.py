"""From a mean gradient to new parameters: groups, schedule, clipping, SGD; arithmetic alone, no processes."""
