"""``asap-eval report diff``: what moved between two folders of results, and whether it is noise.

``match`` finds the jobs that both folders hold, ``numbers`` compares the numbers of one job,
``compare`` lists what moved. Nothing here knows which method or benchmark it compares.
"""
