"""Who calls and what they may do: identities, tokens, the policy, quotas, and the server's TLS files.

May import: `core`, `disk`. The rule of this package: a call is judged in memory, without waiting.
"""
