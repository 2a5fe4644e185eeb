"""Several processes on one day: who may join, who leads, and how the limits are divided."""
