"""API: the endpoints for other programs, with their names, inputs and outputs; the services do the work.

May be imported by: tabs, which take inputs by the same rules, and the app's own modules. Must not go in: layout, and
figures.
"""
