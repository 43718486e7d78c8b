"""The second factor of one's own account. The second step of a sign-in stands with the sign-in."""

from typing import Annotated

from fastapi import APIRouter, status

from app.auth.router.common import CallingClient
from app.auth.schemas.second_factor import (
    DisableBody,
    EnrolBody,
    Enrolment,
    FactorCodeBody,
    RecoveryCodes,
    SecondFactorStatus,
)
from app.auth.second_factor import SecondFactors
from app.core.deps import NoStore, SignedIn, provided
from app.core.problem import problem_responses

Factors = Annotated[SecondFactors, provided(SecondFactors)]

router = APIRouter(prefix="/api/v1/auth/2fa", tags=["Second factor"], dependencies=[NoStore])


@router.get(
    "", operation_id="auth_v1_second_factor_status", summary="My second factor", responses=problem_responses(401, 403)
)
async def show_status(caller: SignedIn, factors: Factors) -> SecondFactorStatus:
    """Whether signing in asks for a second factor, since when, and how many recovery codes are left."""
    return await factors.status(caller.user_id)


@router.post(
    "/enroll",
    operation_id="auth_v1_second_factor_enroll",
    summary="Begin to enrol an authenticator app",
    responses=problem_responses(401, 403, 409, 413),
)
async def enroll(body: EnrolBody, caller: SignedIn, client: CallingClient, factors: Factors) -> Enrolment:
    """A secret for an authenticator app, as text, `otpauth` URI and QR code. Nothing is asked for at sign-in until
    `confirm` got a code of it, within 30 minutes. Beginning again voids the secret from before; `409` when a second
    factor is on already."""
    return await factors.begin(caller, body.password.get_secret_value(), client)


@router.post(
    "/confirm",
    operation_id="auth_v1_second_factor_confirm",
    summary="Turn the second factor on",
    responses=problem_responses(401, 403, 409, 413),
)
async def confirm(body: FactorCodeBody, caller: SignedIn, client: CallingClient, factors: Factors) -> RecoveryCodes:
    """Takes a code of the app and turns the second factor on. Keep the recovery codes: they are shown this once."""
    return await factors.confirm(caller, body.code.get_secret_value(), client)


@router.post(
    "/recovery-codes",
    operation_id="auth_v1_second_factor_recovery_codes",
    summary="Make new recovery codes",
    responses=problem_responses(401, 403, 409, 413),
)
async def new_recovery_codes(
    body: FactorCodeBody, caller: SignedIn, client: CallingClient, factors: Factors
) -> RecoveryCodes:
    """Ten new recovery codes, for a code of the app or one of the old ones, which all stop working."""
    return await factors.new_recovery_codes(caller, body.code.get_secret_value(), client)


@router.post(
    "/disable",
    operation_id="auth_v1_second_factor_disable",
    summary="Turn the second factor off",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problem_responses(401, 403, 409, 413),
)
async def disable(body: DisableBody, caller: SignedIn, client: CallingClient, factors: Factors) -> None:
    """Takes the password and a code; the secret and the recovery codes are forgotten."""
    await factors.disable(caller, body.password.get_secret_value(), body.code.get_secret_value(), client)
