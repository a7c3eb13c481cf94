"""Services: what the tabs and the endpoints ask for, computed with `cce`.

May be imported by: figures, api, tabs and the app's own modules. Must not go in: gradio, HTML, and anything else of the
screen.
"""
