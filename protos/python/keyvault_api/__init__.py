"""What the server and the client share: the generated stubs, the KVE1 envelope, and the rules for names and addresses.

The rule of this package: it imports nothing else of ours, and only `envelope` imports cryptography.
"""
