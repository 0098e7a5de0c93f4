"""What the server and the client share: generated stubs, the KVE1 envelope, names, sizes, addresses, file stamps, text
that is fit for a terminal, and what a process with keys asks of the system.

The rule of this package: it imports nothing else of ours, and only `envelope` imports cryptography.
"""
