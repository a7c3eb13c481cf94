"""Tabs: one file for each, which lays out its components and wires them to the services.

May be imported by: the app's own modules. Must not go in: computing, and HTML or figures that need no component.
"""
