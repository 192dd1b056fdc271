"""What a person sees of the router: one page, live, for whoever has the admin token.

The page itself holds no data at all, so that it may be open to everyone; every figure in it comes from the
admin API and the live stream, both behind the token. Nothing of it comes from another host.
"""
