"""Training: losses, one step, the trainer that runs the phases, and the folder that a run writes."""
