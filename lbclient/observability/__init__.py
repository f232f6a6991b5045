"""What other systems want to know of balanced requests; each module needs the extra of its name.

prometheus.py      pools as metrics, read when they are scraped
opentelemetry.py   a request's record as the attributes and events of a span
"""
