"""What the server and the client share: generated stubs, the KVE1 envelope, names, sizes, addresses and file stamps.

The rule of this package: it imports nothing else of ours, and only `envelope` imports cryptography.
"""
