"""The endpoints of accounts, by topic."""

from fastapi import APIRouter

from app.auth.router import admin, api_tokens, recovery, second_factor, sessions, sign_in

router = APIRouter()
for _part in (sign_in, recovery, sessions, second_factor, api_tokens, admin):
    router.include_router(_part.router)
