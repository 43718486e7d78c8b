"""The endpoints of accounts, by topic."""

from app.auth.router import admin, api_tokens, recovery, second_factor, sessions, sign_in

# One by one for the application to include: what FastAPI makes of a route it makes anew at every level of routers.
routers = (
    *sign_in.routers,
    recovery.router,
    sessions.router,
    second_factor.router,
    api_tokens.router,
    admin.router,
)
