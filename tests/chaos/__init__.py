"""The invariant checker: what is recorded of a run, and the six properties that must hold."""
