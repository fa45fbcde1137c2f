"""Bringing an install up and down: engine, base image, Temporal, and the processes beside them.

Imports ``greenroom.core`` and the standard library only (``temporal_server`` also the Temporal
SDK), so that it runs before anything else works.
"""
