"""CCE Studio, the web app: services call `cce`, figures draw what they give, tabs and endpoints show it.

May be imported by: `app.py` and the benchmarks. Must not go in: anything that the command line needs too (`cce`).
"""
