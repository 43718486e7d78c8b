"""Verifying an address, and changing or resetting a password."""

from typing import Annotated

from fastapi import APIRouter, status

from app.auth.recovery import Recovery
from app.auth.router.common import CallingClient
from app.auth.schemas.accounts import TokenPair
from app.auth.schemas.recovery import AddressBody, PasswordChangeBody, PasswordResetBody, VerifyEmailBody
from app.auth.schemas.sign_in import Accepted
from app.core.deps import NoStore, PublicLimit, SignedIn, provided
from app.core.problem import problem_responses

router = APIRouter(prefix="/api/v1/auth", tags=["Accounts"], dependencies=[NoStore])

Recoveries = Annotated[Recovery, provided(Recovery)]


@router.post(
    "/verify-email",
    operation_id="auth_v1_verify_email",
    summary="Verify an e-mail address",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problem_responses(413),
    dependencies=[PublicLimit],
)
async def verify_email(body: VerifyEmailBody, client: CallingClient, recovery: Recoveries) -> None:
    """Prove by the token from a mail that the address is yours. It works once, for 24 hours."""
    await recovery.verify_email(body.token, client)


@router.post(
    "/verify-email/resend",
    operation_id="auth_v1_verify_email_resend",
    summary="Have the mail for verifying sent again",
    status_code=status.HTTP_202_ACCEPTED,
    responses=problem_responses(413),
    dependencies=[PublicLimit],
)
async def resend(body: AddressBody, client: CallingClient, recovery: Recoveries) -> Accepted:
    """The same answer for every address. Only the token of the newest mail works."""
    await recovery.resend(body.email, client)
    return Accepted()


@router.post(
    "/password/forgot",
    operation_id="auth_v1_password_forgot",
    summary="Have a mail sent for a forgotten password",
    status_code=status.HTTP_202_ACCEPTED,
    responses=problem_responses(413),
    dependencies=[PublicLimit],
)
async def forgot(body: AddressBody, client: CallingClient, recovery: Recoveries) -> Accepted:
    """The same answer for every address. Only the token of the newest mail works."""
    await recovery.forgot(body.email, client)
    return Accepted()


@router.post(
    "/password/reset",
    operation_id="auth_v1_password_reset",
    summary="Set a new password by the token from a mail",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problem_responses(413),
    dependencies=[PublicLimit],
)
async def reset(body: PasswordResetBody, client: CallingClient, recovery: Recoveries) -> None:
    """The token works once, for 30 minutes. Every session and every API token ends; the owner gets a mail about it."""
    await recovery.reset(body, client)


@router.post(
    "/password/change",
    operation_id="auth_v1_password_change",
    summary="Change my password",
    responses=problem_responses(401, 403, 409, 413),
)
async def change(body: PasswordChangeBody, caller: SignedIn, client: CallingClient, recovery: Recoveries) -> TokenPair:
    """Every session ends, this one too: go on with the tokens of the answer. API tokens stay.

    A wrong current password is a `422` that names the field, and counts as an attempt to sign in.
    """
    return await recovery.change(caller, body, client)
