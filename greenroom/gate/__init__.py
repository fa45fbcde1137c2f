"""The one way out of a container: the opener (root), the gate (unprivileged) and their clients."""
