"""The endpoints for other programs: names, inputs and outputs; the services do the work."""
