"""What an operator touches: settings, how a server is composed, starts and stops, and the command `keyvault-server`.

May import: everything. Nothing imports it but the package's `__main__`.
"""
