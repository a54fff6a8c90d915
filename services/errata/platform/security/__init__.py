"""Who calls, over what transport, and what he may do.

| module | what it answers |
|---|---|
| `rules` | which role a method needs |
| `identity` | who calls, for the code inside a call |
| `tokens`, `bindings` | what a JWT says; what roles a subject has |
| `transport` | TLS of servers and channels |
| `authenticator` | credential → identity |
| `access` | the interceptor that refuses |
| `audit` | what was changed and refused, by whom |
"""
