"""The weakest RSA key that the server accepts, in any certificate and in the tokens' key set.

The rule of this file: it is the only place that has the number. Sources: RFC 7518, section 3.3; NIST SP 800-131A.
"""

MIN_RSA_BITS = 2048
