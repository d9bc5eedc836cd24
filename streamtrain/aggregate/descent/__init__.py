"""From a mean gradient to new parameters: groups, schedule, clipping, averages; arithmetic alone, no processes."""
