"""A sweep's results as one page of HTML: figures and tables, with nothing to be loaded from elsewhere.

Pure functions of stored values. What draws imports plotly: import :mod:`page` where a report is made, and not before.
"""
