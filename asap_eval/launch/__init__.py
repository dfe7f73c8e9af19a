"""One job, or a whole table, by several workers: pieces claimed, computed and merged on the disk.

`launch.py` holds the keys, `parts.py` is the layout on the disk, `queue.py` what a command asks its
workers for, `launcher.py` the interface behind which an engine starts them, one file each.
`head.py` begins the jobs (`begin.py`) and waits; every process that an engine starts (`start.py`)
does what `worker.py` says, with what `computer.py` computes, and the last one makes the record
(`merge.py`).
"""
