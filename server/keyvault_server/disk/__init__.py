"""Files: durable writes, who may read or write one, files that are followed, group commit, the disk thread.

May import: `core`. Knows nothing of records, policies or audit lines.
"""
