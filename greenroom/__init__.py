"""Greenroom: a durable warm pool of prepared development containers."""
