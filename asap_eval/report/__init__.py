"""Reports: from record files to tables, pictures and one page.

``frame`` holds records as numbers; ``layouts``, ``experiment`` and ``paper`` make a ``sheet`` of
them, which ``text`` and ``page`` write; ``pictures`` draws them; ``diff`` compares two folders.
Nothing here reads a command line or runs a method; of methods only the default options count.
"""
