"""Tabs: one file for each, which lays out its components and wires them to the services."""
