"""Temporal workflows: they observe and act; every decision is made in ``greenroom.core``."""
