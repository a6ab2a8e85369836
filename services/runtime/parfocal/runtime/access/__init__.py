"""Who calls, and what they may do.

`identity` says who somebody is, `tokens` and `keys` verify what a call brings along, `policy` reads who has which role
in which project, `actions` says what each RPC requires, `gate` decides, `calls` carries the caller through a call, and
`audit` writes down what was done. Without an access file there are no identities, and servers listen on loopback only.
"""
