"""``asap-eval report html``: all that the records of a folder say, as one file without network.

``content`` gathers what stands on the page, ``headline`` puts the findings into sentences, ``html``
fills ``page.html.j2`` with it. Every text of a record is escaped by the template engine; the only
script and the only styles are those beside this file, and the page's own policy allows no others.
"""
